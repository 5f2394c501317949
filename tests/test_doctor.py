"""The doctor tells what runs, what is missing, and what is broken, and never waits for a renderer forever."""

from importlib import metadata

import pytest

from ogpo_sb3 import doctor
from ogpo_sb3.envs import rendering

BY_NAME = {benchmark.name: benchmark for benchmark in doctor.BENCHMARKS}


def test_a_benchmark_that_runs_is_ready(capsys):
    assert doctor.main(["push-t"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("Push-T     ready: gym-pusht 0.1.") and line.count("\n") == 1
    assert "picture" in line and "shipped:pusht" in line


def test_real_robosuite_is_ready():
    finding = doctor.examine(BY_NAME["Robomimic"])
    assert finding.ready and finding.expected, finding.text
    assert f"robosuite {metadata.version('robosuite')}" in finding.text and "MUJOCO_GL=" in finding.text


def test_absent_assets_are_expected_and_told(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    finding = doctor.examine(BY_NAME["LIBERO"])
    assert not finding.ready and finding.expected
    assert "meshes and textures are missing" in finding.text and "hf download lerobot/libero-assets" in finding.text


def test_what_is_not_installed_is_expected_and_told(monkeypatch):
    def version(package):
        if package == "gymnasium-robotics":
            raise metadata.PackageNotFoundError(package)
        return "3.3.7"

    monkeypatch.setattr(doctor.metadata, "version", version)
    finding = doctor.examine(BY_NAME["Adroit"])
    assert not finding.ready and finding.expected
    assert finding.text == 'not installed (gymnasium-robotics missing): run `pip install "ogpo_sb3[adroit]"`'


def test_a_version_that_breaks_the_engine_is_not_expected(monkeypatch):
    monkeypatch.setattr(doctor, "_requirements", lambda: ['mujoco<3.10,>=3.2.7; extra == "robomimic"', "numpy>=2"])
    real = metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "4.0.0" if name == "mujoco" else real(name))
    finding = doctor.examine(BY_NAME["Robomimic"])
    assert not finding.ready and not finding.expected
    assert finding.text.startswith("mujoco 4.0.0 is installed, <3.10,>=3.2.7 is wanted: run `pip install ")
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "1.5.1" if name == "robosuite" else real(name))
    assert doctor.examine(BY_NAME["Robomimic"]).text.startswith("robosuite 1.5.1 is installed, ==1.4.1 is wanted")


def test_what_fails_or_hangs_ends_with_status_one(monkeypatch, capsys):
    failing = doctor.Benchmark("Broken", "ogpo/Nothing-v0", ("numpy",), None, "none")
    monkeypatch.setattr(doctor, "BENCHMARKS", (failing,))
    assert doctor.main([]) == 1
    told = capsys.readouterr().out
    assert told.startswith("Broken     fails (numpy ") and "Nothing" in told and "draws" in told
    assert doctor.main(["--time-limit", "0.01"]) == 1
    assert "no picture within 0 s (numpy" in capsys.readouterr().out


def test_without_any_backend_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(rendering, "probe", lambda backend: f"MUJOCO_GL={backend} fails: no library")
    told = doctor._other_backend()
    assert told.startswith("install libegl1 or libosmesa6 (MUJOCO_GL=egl fails") and "osmesa" in told
    monkeypatch.setattr(rendering, "probe", lambda backend: None if backend == "osmesa" else "no")
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert doctor._other_backend() == "set MUJOCO_GL=osmesa, which draws here"


def test_wrong_arguments_are_named(capsys):
    for arguments, told in ((["atari"], "found 'atari'"), (["--time-limit", "0"], "must be positive")):
        with pytest.raises(SystemExit):
            doctor.main(arguments)
        assert told in capsys.readouterr().err
