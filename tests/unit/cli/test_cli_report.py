def test_report_writes_one_page_and_never_over_it(safehold, run, tmp_path):
    ran = safehold("report", run)
    assert ran.code == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    refused = safehold("report", run)
    assert refused.code == 2
    assert "--overwrite" in refused.err
    before = sorted(path.name for path in run.iterdir())
    ran = safehold("report", run, "--out", tmp_path / "page.html", "--json")
    assert ran.json["standing"] in ("good", "caution", "bad")
    assert sorted(path.name for path in run.iterdir()) == before
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page


def test_a_directory_without_a_run_gets_no_report(safehold, tmp_path):
    for place in (tmp_path, tmp_path / "nothing"):
        ran = safehold("report", place)
        assert ran.code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_sealed_run_keeps_its_own_report(safehold, run, tmp_path):
    (run / "manifest.json").write_text("{}")
    assert "--out elsewhere" in safehold("report", run).err  # its report is missing, which is not ours to mend
    (run / "report.html").write_text("sealed")
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    ran = safehold("report", run)
    assert ran.code == 0
    assert f"Report: {run / 'report.html'}" in ran.out
    (tmp_path / "link").symlink_to(run)
    for words in (
        ("--overwrite",),
        ("--out", run / "report.html", "--overwrite"),
        ("--out", tmp_path / "link" / "report.html", "--overwrite"),
        ("--out", run / "evaluations.json", "--overwrite"),
        ("--out", run / "new.html"),
        ("--data", run / "episodes.hdf5"),
    ):
        ran = safehold("report", run, *words)
        assert ran.code == 2
        assert "choose --out elsewhere" in ran.err
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    assert safehold("report", run, "--out", tmp_path / "page.html").code == 0
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_envs_are_listed_and_checked(safehold):
    listed = {spec["env_id"]: spec for spec in safehold("envs", "list", "--json").json}
    assert listed["HalfCheetahVelocity"]["horizon"] == 1000
    assert "keeps its contract" in safehold("envs", "check", "toy/Corridor").out
    ran = safehold("envs", "check", "toy/Coridor")
    assert ran.code == 2
    assert "toy/Corridor" in ran.err
