"""Two sequences lined up by scores, without crossing."""

import numpy as np


def best_alignment(scores: np.ndarray) -> list[tuple[int, int]]:
    """Pairs in rising order on both sides with the largest sum of scores.

    Of equal sums the one whose pairs come first is taken. Time and memory are those of
    the scores, ``[m, n]``; what scores 0 is not paired.
    """
    num_rows, num_columns = scores.shape
    best = np.zeros((num_rows + 1, num_columns + 1))  # of what is left from there on
    for row in reversed(range(num_rows)):
        paired = np.where(scores[row] > 0, scores[row] + best[row + 1, 1:], 0)
        own = np.maximum(paired, best[row + 1, :-1])
        best[row, :-1] = np.maximum.accumulate(own[::-1])[::-1]
    pairs = []
    row = column = 0
    while row < num_rows and column < num_columns and best[row, column] > 0:
        if scores[row, column] > 0 and np.isclose(
            best[row, column], scores[row, column] + best[row + 1, column + 1]
        ):
            pairs.append((row, column))
            row, column = row + 1, column + 1
        elif np.isclose(best[row, column], best[row, column + 1]):
            column += 1
        else:
            row += 1
    return pairs
