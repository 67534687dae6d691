"""Progress in a log: whole lines, the last one complete."""

from onepix.progress import progress_bar


def test_lines_in_a_log(capsys):
    with progress_bar(3, "attack", "pass") as bar:
        for _ in range(3):
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("attack:   0% 0/3 pass")
    assert lines[-1].startswith("attack: 100% 3/3 pass")
    assert all("\r" not in line and line for line in lines)
