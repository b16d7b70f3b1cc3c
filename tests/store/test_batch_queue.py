import threading
import time

from ttrace.store.batch_queue import BatchQueue


def in_thread(function, *args):
    """Runs a call in a daemon thread; returns the thread and its results."""
    results = []
    thread = threading.Thread(
        target=lambda: results.append(function(*args)), daemon=True
    )
    thread.start()
    return thread, results


def is_blocked(thread):
    thread.join(0.05)
    return thread.is_alive()


def test_a_batch_is_due_at_its_size_and_keeps_the_order():
    queue = BatchQueue(batch_bytes=10, max_bytes=100)
    for number in range(5):
        queue.put(number, 4)
    assert queue.take() == [0, 1, 2]
    taker, results = in_thread(queue.take)
    assert is_blocked(taker)
    queue.put(5, 4)
    taker.join(10)
    assert results == [[3, 4, 5]]


def test_put_waits_for_room_and_makes_a_short_batch_due():
    queue = BatchQueue(batch_bytes=100, max_bytes=10)
    queue.put("a", 6)
    putter, results = in_thread(queue.put, "b", 6)
    assert is_blocked(putter)
    assert queue.take() == ["a"]
    assert is_blocked(putter), "a taken item counts until it is released"
    queue.release(6)
    putter.join(10)
    assert results == [True]
    assert queue.held_bytes == 6


def test_a_larger_item_passes_alone():
    queue = BatchQueue(batch_bytes=100, max_bytes=10)
    queue.put("large", 50)
    putter, _ = in_thread(queue.put, "small", 1)
    assert is_blocked(putter)
    assert queue.take() == ["large"]
    queue.release(50)
    putter.join(10)
    assert not putter.is_alive()
    larger, _ = in_thread(queue.put, "large", 50)
    assert is_blocked(larger)


def test_close_ends_the_batches_and_loses_nobody_who_waits():
    queue = BatchQueue(batch_bytes=100, max_bytes=10)
    queue.put("a", 6)
    putter, results = in_thread(queue.put, "b", 6)
    assert is_blocked(putter)
    queue.close()
    assert queue.put("late", 1) is False
    assert queue.take() == ["a"]
    taker, batches = in_thread(queue.take)
    assert is_blocked(taker), "b still waits for room"
    queue.release(6)
    taker.join(10)
    assert (results, batches) == ([True], [["b"]])
    assert queue.take() is None


def test_discard_frees_everything_and_blocks_nobody():
    queue = BatchQueue(batch_bytes=100, max_bytes=10)
    queue.put("a", 6)
    putter, results = in_thread(queue.put, "b", 6)
    assert is_blocked(putter)
    queue.discard()
    putter.join(10)
    assert results == [True]
    assert queue.put("c", 1000) is True
    assert queue.held_bytes == 0
    queue.close()
    assert queue.take() is None


def test_many_threads_lose_nothing():
    queue = BatchQueue(batch_bytes=50, max_bytes=100)
    taken, most = [], 0

    def take_all():
        nonlocal most
        while (batch := queue.take()) is not None:
            most = max(most, queue.held_bytes)
            for item in batch:
                taken.append(item)
                queue.release(7)
            time.sleep(0)

    taker, _ = in_thread(take_all)
    putters = [
        in_thread(lambda n=n: [queue.put((n, i), 7) for i in range(500)])[0]
        for n in range(8)
    ]
    for putter in putters:
        putter.join(30)
    queue.close()
    taker.join(30)
    assert sorted(taken) == [(n, i) for n in range(8) for i in range(500)]
    assert most <= 100
