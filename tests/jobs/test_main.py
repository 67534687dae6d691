"""`python -m onepix.jobs RULE`."""

import pytest

from onepix.errors import OnepixError
from onepix.jobs.__main__ import RULES, run


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_rules_are_listed(capsys, arguments):
    run(arguments)
    assert "Rules: attack, charts, cifar10, configuration, controls, " in capsys.readouterr().out


def test_a_wrong_rule_is_told_with_the_nearest():
    with pytest.raises(OnepixError, match=r"there is no rule 'propagate'; did you mean 'propagation'\?$"):
        run(["propagate", "--settings", "{}"])


@pytest.mark.parametrize("rule", RULES)
def test_each_job_explains_its_options(capsys, rule):
    with pytest.raises(SystemExit) as ended:
        run([rule, "--help"])
    assert ended.value.code == 0
    assert "--output" in capsys.readouterr().out
