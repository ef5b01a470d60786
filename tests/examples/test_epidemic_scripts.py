"""The scripts of examples/epidemic, each by itself and without mrun: the science is right before the engine runs it."""

import importlib.util
import inspect
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

EPIDEMIC_DIR = Path(__file__).resolve().parents[2] / "examples" / "epidemic"
#: Contagious, fast and with many infected at the start: the run that asks most of the integrator.
FIERCE = {"r0": 4.1, "latent_days": 3.0, "infectious_days": 6.0, "initial_fraction": 1e-3}
MILD = {"r0": 2.4, "latent_days": 5.9, "infectious_days": 9.5, "initial_fraction": 1e-5}
#: Contacts stay as they are, or halve after a month: the spec's two scenarios.
NO_MEASURES = {"strength": 0.0, "from_day": 30}
DISTANCING = {"strength": 0.5, "from_day": 30}


def load(name):
    """Import a script of the example under a name of its own: `simulate` or `train` may mean something else here."""
    module_name = f"epidemic_{name}"
    spec = importlib.util.spec_from_file_location(module_name, EPIDEMIC_DIR / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module


simulate, make_samples, collect, surrogate = map(load, ("simulate", "make_samples", "collect", "surrogate"))
CORNERS = list(itertools.product(*[(low, high) for _, low, high, _ in make_samples.PARAMETERS]))


def run_script(name, *arguments, cwd, flags=()):
    command = [sys.executable, *flags, str(EPIDEMIC_DIR / name), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def as_arguments(values):
    return [f"{key}={value}" for key, value in values.items()]


# --- simulate.py


@pytest.mark.parametrize("scenario", [NO_MEASURES, DISTANCING])
def test_nobody_is_born_and_nobody_is_lost(scenario):
    states = np.array(simulate.epidemic(**FIERCE, **scenario))

    np.testing.assert_allclose(states.sum(axis=1), 1, atol=1e-12)
    assert states.min() >= 0


def test_halving_the_step_makes_the_error_sixteen_times_smaller():
    # Given the model at one instant of a rising epidemic, and its solution five days on
    slope = simulate.seir_slope(beta_per_day=0.6, latent_days=4.0, infectious_days=6.0)

    def five_days_on(n_steps):
        state = [0.8, 0.05, 0.1, 0.05]
        for _ in range(n_steps):
            state = simulate.rk4_step(slope, state, 5 / n_steps)
        return np.array(state)

    exact = five_days_on(2000)
    errors = [np.abs(five_days_on(n_steps) - exact).max() for n_steps in (8, 16, 32)]

    # I expect a method of fourth order
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(16, rel=0.15)


@pytest.mark.parametrize("scenario", [NO_MEASURES, DISTANCING])
@pytest.mark.parametrize("corner", CORNERS)
def test_default_step_is_as_accurate_as_it_says_at_every_corner_of_the_ranges(corner, scenario):
    coarse = simulate.summary(simulate.epidemic(*corner, **scenario))
    fine = simulate.summary(simulate.epidemic(*corner, **scenario, steps_per_day=24), steps_per_day=24)

    assert coarse["infectious_by_day"] == pytest.approx(fine["infectious_by_day"], rel=1e-5)
    assert coarse["attack_rate"] == pytest.approx(fine["attack_rate"], rel=1e-7)
    assert coarse["peak_fraction"] == pytest.approx(fine["peak_fraction"], rel=1e-4)


def test_attack_rate_obeys_the_final_size_equation():
    # Kermack & McKendrick (1927): ln(S_end / S_start) = -R0 × (all who were ever infected), once the epidemic is over
    states = simulate.epidemic(**FIERCE, **NO_MEASURES)

    susceptible_start, susceptible_end = states[0][0], states[-1][0]
    assert np.log(susceptible_end / susceptible_start) == pytest.approx(-FIERCE["r0"] * (1 - susceptible_end), rel=1e-6)


@pytest.mark.parametrize("parameters", [FIERCE, MILD])
def test_distancing_flattens_the_curve(parameters):
    free = simulate.summary(simulate.epidemic(**parameters, **NO_MEASURES))
    distanced = simulate.summary(simulate.epidemic(**parameters, **DISTANCING))

    assert distanced["peak_fraction"] < free["peak_fraction"]
    assert distanced["attack_rate"] < free["attack_rate"]
    # nothing differs before the measures begin
    assert distanced["infectious_by_day"][:31] == free["infectious_by_day"][:31]
    assert distanced["infectious_by_day"][31] < free["infectious_by_day"][31]


def test_run_writes_json_that_fits_one_block(tmp_path):
    arguments = as_arguments({"sample": 17, **MILD, **DISTANCING})
    done = run_script("simulate.py", *arguments, cwd=tmp_path, flags=("-I", "-S"))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    text = (tmp_path / "run.json").read_text(encoding="utf-8")
    record = json.loads(text)
    assert len(text) <= 4096
    assert {key: record[key] for key in ("sample", *MILD, *DISTANCING)} == {"sample": 17, **MILD, **DISTANCING}
    assert len(record["infectious_by_day"]) == simulate.HORIZON_DAYS + 1
    assert max(record["infectious_by_day"]) == pytest.approx(record["peak_fraction"], rel=1e-3)


def test_run_imports_nothing_so_that_it_starts_quickly(tmp_path):
    program = (
        "import sys; path, *sys.argv[1:] = sys.argv[1:]; before = set(sys.modules);"
        "exec(compile(open(path, encoding='utf-8').read(), path, 'exec'), {'__name__': '__main__'});"
        "print(*set(sys.modules) - before)"
    )
    arguments = as_arguments({"sample": 0, **MILD, **NO_MEASURES})
    command = [sys.executable, "-I", "-S", "-c", program, str(EPIDEMIC_DIR / "simulate.py"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    assert done.stdout.split() == []
    assert (tmp_path / "run.json").exists()


@pytest.mark.parametrize("wrong", [{"latent_days": 0}, {"initial_fraction": 1.5}, {"r0": "many"}])
def test_run_with_a_senseless_parameter_fails_and_leaves_no_result(tmp_path, wrong):
    done = run_script("simulate.py", *as_arguments({"sample": 0, **MILD, **NO_MEASURES, **wrong}), cwd=tmp_path)

    assert done.returncode == 1
    assert not (tmp_path / "run.json").exists()


# --- make_samples.py


@pytest.mark.parametrize(("n_samples", "n_dimensions"), [(1, 1), (7, 3), (1000, 4)])
def test_latin_hypercube_has_one_sample_in_each_stratum_of_each_dimension(n_samples, n_dimensions):
    points = make_samples.latin_hypercube(n_samples, n_dimensions, np.random.default_rng(3))

    assert points.shape == (n_samples, n_dimensions)
    strata = np.floor(points * n_samples).astype(int)
    for column in strata.T:
        assert sorted(column) == list(range(n_samples))


def test_samples_fill_the_ranges_evenly_on_their_own_scale():
    samples = make_samples.in_ranges(make_samples.latin_hypercube(1000, 4, np.random.default_rng(3)))

    for column, (_, low, high, is_log) in zip(samples.T, make_samples.PARAMETERS, strict=True):
        assert low <= column.min() <= column.max() <= high
        middle = np.sqrt(low * high) if is_log else (low + high) / 2
        assert (column < middle).sum() == 500


def test_one_seed_makes_one_table(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        done = run_script("make_samples.py", "--n", 20, "--seed", seed, "--out", f"{name}.npy", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    a, b, c = ((tmp_path / f"{name}.npy").read_bytes() for name in "abc")

    assert a == b != c


# --- surrogate.py


def cubic(inputs):
    """A polynomial of degree three in the logarithms of the inputs, and a straight line."""
    x, y = np.log(inputs).T
    return np.stack([2 - x + 3 * x * y + 0.5 * y**3, x + 2 * y], axis=1)


def positive_inputs(n_runs, seed):
    return np.exp(np.random.default_rng(seed).uniform(-1, 1, size=(n_runs, 2)))


def test_surrogate_recovers_a_polynomial_and_its_degree():
    seen, unseen = positive_inputs(60, seed=1), positive_inputs(40, seed=2)
    fitted = surrogate.fit(seen, cubic(seen))

    assert fitted.degree >= 3  # a higher one holds the same polynomial, with coefficients of zero
    np.testing.assert_allclose(fitted.predict(unseen), cubic(unseen), atol=1e-5)


def test_surrogate_of_noise_around_a_line_is_a_line():
    inputs = positive_inputs(30, seed=1)
    noisy_line = np.log(inputs).sum(axis=1, keepdims=True) + np.random.default_rng(4).normal(0, 0.3, (30, 1))

    assert surrogate.fit(inputs, noisy_line).degree == 1


def test_left_out_residuals_are_those_of_fits_without_the_run():
    inputs = positive_inputs(12, seed=1)
    design, outputs = surrogate.monomials(np.log(inputs), degree=2), cubic(inputs)
    _, left_out_residuals = surrogate.ridge(design, outputs)

    for run in range(len(design)):
        coefficients, _ = surrogate.ridge(np.delete(design, run, axis=0), np.delete(outputs, run, axis=0))
        np.testing.assert_allclose(left_out_residuals[run], outputs[run] - design[run] @ coefficients, atol=1e-9)


def test_r_squared_is_one_for_the_truth_zero_for_its_mean_and_nan_where_nothing_varies():
    truth = np.array([[1.0, 1.0, 5.0], [3.0, 3.0, 5.0]])
    predicted = np.array([[1.0, 2.0, 5.0], [3.0, 2.0, 5.0]])

    np.testing.assert_array_equal(surrogate.r_squared(truth, predicted), [1, 0, np.nan])


def test_only_a_perfect_fit_is_written_as_one():
    assert surrogate.rounded_down(0.99999) == "0.9999"
    assert surrogate.rounded_down(1.0) == "1.0000"


def test_surrogate_predicts_real_epidemics():
    samples = make_samples.in_ranges(make_samples.latin_hypercube(100, 4, np.random.default_rng(2020)))
    years = [simulate.summary(simulate.epidemic(*row, **DISTANCING, steps_per_day=1), 1) for row in samples]
    outputs = np.array([[year["peak_fraction"], year["attack_rate"]] for year in years])
    fitted = surrogate.fit(samples[:80], outputs[:80])

    assert surrogate.r_squared(outputs[80:], fitted.predict(samples[80:])).min() > 0.95


# --- collect.py, train.py, draw.py


@pytest.fixture
def make_runs(tmp_path):
    """Give a function that writes the runs of a scenario where a study would have them."""

    def make(combination, scenario, n_samples):
        samples = make_samples.in_ranges(make_samples.latin_hypercube(n_samples, 4, np.random.default_rng(1)))
        np.save(tmp_path / "samples.npy", samples)
        runs_dir = tmp_path / "simulate" / combination
        for index, row in enumerate(samples):
            inputs = dict(zip(collect.INPUTS, row.tolist(), strict=True))
            year = simulate.summary(simulate.epidemic(**inputs, **scenario, steps_per_day=1), 1)
            sample_dir = runs_dir / f"{index // 25:02d}" / f"{index % 25:02d}"
            sample_dir.mkdir(parents=True)
            text = simulate.as_json({"sample": index, **inputs, **scenario, **year})
            (sample_dir / "run.json").write_text(text, encoding="utf-8")
        return runs_dir

    return make


def run_collect(runs_dir, scenario_name, cwd, out="runs.npz"):
    options = ["--runs", runs_dir, "--levels", "*/*/", "--samples", cwd / "samples.npy"]
    return run_script("collect.py", *options, "--scenario", scenario_name, "--out", out, cwd=cwd)


def test_collect_counts_and_names_the_runs_that_are_missing(tmp_path, make_runs):
    # Given thirty runs, of which one failed and one was killed while it wrote
    runs_dir = make_runs("SCENARIO.none", NO_MEASURES, n_samples=30)
    (runs_dir / "00" / "03" / "run.json").unlink()
    torn = runs_dir / "01" / "02" / "run.json"
    torn.write_text(torn.read_text(encoding="utf-8")[:99], encoding="utf-8")

    done = run_collect(runs_dir, "none", tmp_path)

    # I expect the others, in order, and to be told
    assert done.returncode == 0
    assert done.stdout == "none: 28 of 30 runs; 2 without a result: samples 3, 27\n"
    assert "01/02/run.json cannot be used" in done.stderr
    with np.load(tmp_path / "runs.npz") as runs:
        expected = [index for index in range(30) if index not in (3, 27)]
        assert runs["sample"].tolist() == expected
        np.testing.assert_allclose(runs["inputs"], np.load(tmp_path / "samples.npy")[expected], rtol=1e-8)
        assert runs["infectious_by_day"].shape == (28, simulate.HORIZON_DAYS + 1)


def test_collect_without_one_run_fails(tmp_path):
    np.save(tmp_path / "samples.npy", np.ones((30, 4)))
    done = run_collect(tmp_path / "nowhere", "none", tmp_path)

    assert done.returncode == 1
    assert "0 of 30 runs; 30 without a result: samples 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …" in done.stdout
    assert "no run.json below" in done.stderr


@pytest.mark.slow
def test_funnels_end_in_a_figure_and_a_summary(tmp_path, make_runs):
    for name, scenario in (("none", NO_MEASURES), ("distancing", DISTANCING)):
        runs_dir = make_runs(f"SCENARIO.{name}", scenario, n_samples=40)
        for step in ("collect", "train"):
            (tmp_path / step / f"SCENARIO.{name}").mkdir(parents=True)
        runs_path = tmp_path / "collect" / f"SCENARIO.{name}" / "runs.npz"
        trial_path = tmp_path / "train" / f"SCENARIO.{name}" / "surrogate.npz"
        assert run_collect(runs_dir, name, tmp_path, out=runs_path).returncode == 0
        trained = run_script("train.py", "--runs", runs_path, "--out", trial_path, cwd=tmp_path)
        assert trained.returncode == 0, trained.stderr
        assert "32 runs to train, 8 held out" in trained.stdout

    options = ["--runs", tmp_path / "collect", "--surrogates", tmp_path / "train", "--out", "epidemic.png"]
    drawn = run_script("draw.py", *options, cwd=tmp_path)

    assert drawn.returncode == 0, drawn.stderr
    none, distancing, figure = drawn.stdout.splitlines()
    assert re.match(r"R2 none [01]\.\d{4} ", none)
    assert re.match(r"R2 distancing [01]\.\d{4} ", distancing)
    assert figure == f"figure {tmp_path / 'epidemic.png'}"
    assert (tmp_path / "epidemic.png").read_bytes().startswith(b"\x89PNG")


# --- spec.yaml


def test_spec_and_scripts_agree():
    spec = YAML(typ="safe").load(EPIDEMIC_DIR / "spec.yaml")
    commands = {step["name"]: step["run"]["cmd"] for step in spec["study"]}
    samples = spec["merlin"]["samples"]

    # every script that is mentioned is there
    everything = "\n".join([*commands.values(), samples["generate"]["cmd"]])
    scripts = set(re.findall(r"\$\(SPECROOT\)/(\w+\.py)", everything))
    assert scripts == {"make_samples.py", "simulate.py", "collect.py", "train.py", "draw.py"}
    assert all((EPIDEMIC_DIR / script).exists() for script in scripts)
    # the table's columns carry their labels, in order
    assert samples["column_labels"] == [parameter.label for parameter in make_samples.PARAMETERS]
    # a run is given all that it takes, each parameter from the token of its own name
    given = dict(re.findall(r"(\w+)=\$\((\w+)\)", commands["simulate"]))
    assert given.pop("sample") == "MERLIN_SAMPLE_ID"
    assert given == {name: name.upper() for name in given}
    assert set(given) == set(inspect.signature(simulate.epidemic).parameters) - {"steps_per_day"}
