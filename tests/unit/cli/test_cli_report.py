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


def test_envs_are_listed_and_checked(safehold):
    listed = {spec["env_id"]: spec for spec in safehold("envs", "list", "--json").json}
    assert listed["HalfCheetahVelocity"]["horizon"] == 1000
    assert "keeps its contract" in safehold("envs", "check", "toy/Corridor").out
    ran = safehold("envs", "check", "toy/Coridor")
    assert ran.code == 2
    assert "toy/Corridor" in ran.err
