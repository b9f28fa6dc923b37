import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_the_programs_in_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    programs = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert programs
    for program in programs:
        exec(compile(program, str(README), "exec"), {"__name__": "__main__"})
