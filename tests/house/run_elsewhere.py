"""Commands of the docs that other tests run than that of their page."""

RUN_ELSEWHERE = {
    "pip install '.[megatron]'": "house/test_packaging.py::environment",
    "ttrace demo": "house/test_packaging.py::test_demo_runs_from_the_wheel",
    "ttrace check --reference ": (
        "examples/test_megatron_quickstart.py::test_tensor_parallelism_passes"
    ),
    "ttrace check --map examples/jax_port/maps/megatron_gpt2_linen.toml": (
        "examples/test_megatron_jax_check.py::test_the_command_of_the_docs_passes"
    ),
    "ttrace check --reference-trace ttrace-check/reference": (
        "cli/test_check_command.py::test_a_changed_candidate_costs_one_run"
    ),
    "ttrace compare out/reference out/candidate --kinds": (
        "cli/test_compare_command.py::test_a_part_of_what_was_recorded"
    ),
    "ttrace compare out/reference out/candidate --processes": (
        "cli/test_shared_work.py::test_the_report_is_the_same"
    ),
    "ttrace compare out/reference out/candidate --allow-file": (
        "judge/verdicts/test_allowances.py::test_compare_takes_the_file"
    ),
    "ttrace judge": (
        "cli/test_judge_command.py::test_a_pass_by_multiplier_and_allow_file"
    ),
    "ttrace localize": "cli/test_localize_command.py::test_the_wrong_module_is_named",
    "ttrace lint": "cli/test_lint_command.py::test_a_run_with_nan",
    "ttrace clean": "cli/test_clean_command.py::test_the_traces_of_a_check_go",
    "ttrace check --map port.toml": (
        "cli/test_map_command.py::test_check_reads_the_map_before_it_runs_anything"
    ),
    "ttrace map out/torch": "cli/test_map_command.py::test_propose_then_compare",
    "ttrace record --kinds default,collective": (
        "cli/test_record_command.py::test_options_reach_the_run"
    ),
    "ttrace record --kinds op": (
        "cli/test_record_command.py::test_options_reach_the_run"
    ),
    "ttrace record --out out/noise-1": (
        "cli/test_record_command.py::test_options_reach_the_run"
    ),
    "ttrace tolerance": "cli/test_tolerance_command.py::test_estimate",
    "ttrace compare out/reference out/candidate --tolerance": (
        "examples/test_megatron_quickstart.py"
        "::test_gradients_that_nobody_reduces_are_found"
    ),
}
"""By the beginning of a command in an ``sh`` fence: the test that runs one like it."""
