"""The files in monitoring/ name only what exists, and every alert has its test, runbook, panel and row of the page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml

from reconciler.cli import application
from reconciler.domain.findings.findings import NAMES
from reconciler.metrics import Metrics
from reconciler.settings import Settings, variable
from testkit.tables import member
from tests.contract.test_operations_page import PAGE, code_blocks, rows, section, statements, words

ROOT = Path(__file__).resolve().parents[2] / "monitoring"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""PyYAML's loader in C is ten times as fast, where it was built with it."""
FILES = [yaml.load(path.read_text(), LOADER) for path in sorted((ROOT / "rules").glob("*.yml"))]
RULES = [rule for file in FILES for group in file["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
NAMED = {rule["alert"] for rule in ALERTS}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
PROOFS = [yaml.load(path.read_text(), LOADER) for path in sorted((ROOT / "tests").glob("*.yml"))]
DASHBOARDS = {path.name: json.loads(path.read_text()) for path in sorted((ROOT / "dashboards").glob("*.json"))}
RUNBOOKS = {path.stem: path.read_text() for path in sorted((ROOT / "runbooks").glob("*.md"))}
QUERIES = {path.stem: path.read_text() for path in sorted((ROOT / "sql").glob("*.sql"))}
EXAMPLES = [(ROOT / name).read_text() for name in ("prometheus.yml", "alertmanager/alertmanager.yml")]

ADDED = {"cluster", "instance", "job", "le"}
"""Labels that Prometheus and histograms add."""

STRANGERS = {"up", "ALERTS"}
SELECTOR = re.compile(r"(?<![\w:\"])((?:\w+:)*kie_reconciler_[\w:]+|up|ALERTS)\b(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool")


def series() -> dict[str, dict[str, set[str]]]:
    """Every series that is exported from the start, with the values that each label can have."""
    found: dict[str, dict[str, set[str]]] = {}
    for family in Metrics().registry.collect():
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return found


SERIES = series()
# Its words come from what fails, so no series is there from the start.
SERIES["kie_reconciler_attempt_failures_total"] = {"stage": set(), "reason": set()}


def panels() -> Iterator[dict[str, Any]]:
    for dashboard in DASHBOARDS.values():
        yield from dashboard["panels"]


def expressions() -> list[str]:
    """Every PromQL that is shipped, rules first."""
    drawn = [target["expr"] for panel in panels() for target in panel["targets"]]
    noted = [note["expr"] for board in DASHBOARDS.values() for note in board["annotations"]["list"]]
    return [rule["expr"] for rule in RULES] + [each.replace("$__rate_interval", "5m") for each in drawn + noted]


def metrics_in(expression: str) -> set[str]:
    """The daemon's own series in an expression, recorded ones resolved."""
    names = {name for name, _ in SELECTOR.findall(expression)} - STRANGERS
    recorded = {rule["expr"] for rule in RULES if rule.get("record") in names}
    return {name for name in names if name in SERIES} | {name for expr in recorded for name in metrics_in(expr)}


def test_the_parts_are_there_at_all() -> None:
    assert len(NAMED) > 20
    assert len(expressions()) > 80
    assert len(QUERIES) > 15
    assert {"overview.json", "deliveries.json", "kie.json", "storage.json", "replicas.json"} == set(DASHBOARDS)


@pytest.mark.parametrize("expression", expressions())
def test_every_series_that_is_asked_for_exists_with_those_labels_and_values(expression: str) -> None:
    grouped = {
        word.strip() for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for word in group.split(",")
    }
    known: set[str] = set(ADDED)
    for name, matchers in SELECTOR.findall(expression):
        assert name in SERIES or name in STRANGERS | RECORDED, name
        labels = SERIES.get(name, {})
        known |= set(labels)
        for label, operator, value in MATCHER.findall(matchers):
            assert label in {*labels, *ADDED} or name in STRANGERS, f"{name} has no label {label}"
            if labels.get(label):
                parts = value.split("|") if "~" in operator else [value]
                assert set(parts) <= labels[label], f"{name} never has {label} {value}"
    assert grouped - {""} <= known


def test_what_only_the_leader_knows_is_aggregated_with_max_or_min() -> None:
    leaders = {f"kie_reconciler_{words(row[0])[0]}" for row in rows(section("Metrics")) if row[3] == "leader"}
    assert leaders
    for expression in expressions():
        for name in leaders & {name for name, _ in SELECTOR.findall(expression)}:
            bare = re.sub(rf"unless on \(cluster\) {name}", "", expression)
            assert len(re.findall(rf"\b{name}\b", bare)) == len(
                re.findall(rf"\b(?:max|min) by \([\w, ]+\) \({name}\b", bare)
            ), expression


def test_a_page_that_hangs_on_the_leader_outlives_a_change_of_it() -> None:
    leaders = {f"kie_reconciler_{words(row[0])[0]}" for row in rows(section("Metrics")) if row[3] == "leader"}
    for rule in ALERTS:
        if metrics_in(rule["expr"]) & leaders and rule["alert"] != "FiguresMissing":
            assert rule.get("keep_firing_for"), rule["alert"]


def test_every_alert_says_how_bad_it_is_for_whom_and_where_to_read_on() -> None:
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert {"summary", "description"} <= set(rule["annotations"])
        assert rule["annotations"]["runbook_url"] == f"monitoring/runbooks/{rule['alert']}.md"
        assert "cluster" in rule["expr"]


def test_every_finding_has_an_alert() -> None:
    by_itself = {
        name
        for rule in ALERTS
        for _, value in re.findall(r'kie_reconciler_findings\{name(=~?)"([^"]+)"', rule["expr"])
        for name in value.split("|")
    }
    by_their_figures = {"stuck", "media_expiring", "deaf_listener", "late_sweep", "schema_behind", "notification_queue"}
    (others,) = (rule["expr"] for rule in ALERTS if rule["alert"] == "FindingOpen")
    left_out = {name for value in re.findall(r'name!~"([^"]+)"', others) for name in value.split("|")}
    assert left_out == by_itself | by_their_figures
    assert left_out <= set(NAMES)


def seconds(time: str) -> int:
    (found,) = re.findall(r"^(\d+)([mh])$", time)
    return int(found[0]) * {"m": 60, "h": 3600}[found[1]]


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: "-".join([rule["alert"], *rule["labels"].values()]))
def test_every_alert_is_proven_to_fire_and_not_one_step_before(rule: dict[str, Any]) -> None:
    def fires(step: dict[str, Any]) -> bool:
        return any(rule["labels"].items() <= one["exp_labels"].items() for one in step["exp_alerts"])

    proven = False
    for proof in PROOFS:
        for group in proof["tests"]:
            steps = {seconds(one["eval_time"]): fires(one) for one in group.get("alert_rule_test", ())
                     if one["alertname"] == rule["alert"]}  # fmt: skip
            step = seconds(proof["evaluation_interval"])
            proven |= any(fired and steps.get(at - step) is False for at, fired in steps.items())
    assert proven


def test_every_alert_that_counts_is_proven_over_a_restart() -> None:
    counting = {rule["alert"] for rule in ALERTS if any(name.endswith(("_total", "_count", "_bucket"))
                                                        for name in metrics_in(rule["expr"]))}  # fmt: skip
    restarts = [group for proof in PROOFS for group in proof["tests"] if "starts anew" in group["name"]]
    proven = {name for group in restarts for name in NAMED if name in json.dumps(group)}
    assert counting <= proven


def test_no_proof_is_of_an_alert_that_is_not_there() -> None:
    steps = [one for proof in PROOFS for group in proof["tests"] for one in group.get("alert_rule_test", ())]
    assert {one["alertname"] for one in steps} == NAMED


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert set(RUNBOOKS) == NAMED


@pytest.mark.parametrize("name", sorted(RUNBOOKS))
def test_a_runbook_says_what_it_means_whom_it_hurts_where_to_look_what_to_do_and_when_to_call(name: str) -> None:
    text = RUNBOOKS[name]
    assert text.startswith(f"# {name}\n\n**Meaning.** ")
    assert "\n**Impact.** " in text
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["See", "Fix", "Escalate"]
    severities = {rule["labels"]["severity"] for rule in ALERTS if rule["alert"] == name}
    assert {
        word.lower() for word in re.findall(r"\b(Page|Ticket|page|ticket)\b", text.split("## See")[0])
    } >= severities
    assert list(code_blocks(text, "sh"))
    for linked in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / "runbooks" / linked).exists(), linked


def test_runbooks_name_only_commands_settings_and_series_that_exist() -> None:
    text = "".join(RUNBOOKS.values()) + "".join(QUERIES.values()) + "".join(EXAMPLES)
    commands = {one.name or one.callback.__name__ for one in application().registered_commands if one.callback}
    assert set(re.findall(r"(?m)(?:^|`)kie-reconciler ([a-z]+)", text)) <= commands
    assert set(re.findall(r"\b(?:RECONCILER|KIE|SUPABASE|DATABASE|LOG)_[A-Z_]+\b", text)) <= {
        variable(name) for name in Settings.model_fields
    }
    assert set(re.findall(r"kie_reconciler_[a-z_]*[a-z]", text)) - set(SERIES) <= {
        "kie_reconciler_storage_request_seconds", "kie_reconciler_kie_request_seconds",
    }  # fmt: skip


async def test_every_statement_of_a_runbook_runs_as_the_daemons_own_login(dsn: str) -> None:
    async with member(dsn, "reconciler") as address:
        connection = await asyncpg.connect(address)
        for name, text in RUNBOOKS.items():
            for statement in statements(text):
                assert await connection.fetch(statement) is not None, name
        await connection.close()


def test_every_alert_is_named_by_a_panel_that_draws_what_it_goes_by() -> None:
    drawn: dict[str, set[str]] = {}
    for panel in panels():
        _, _, named = panel["description"].partition("Alert")
        for name in set(re.findall(r"\w+", named)) & NAMED:
            for target in panel["targets"]:
                names = {name for name, _ in SELECTOR.findall(target["expr"])}
                drawn.setdefault(name, set()).update(names | metrics_in(target["expr"]))
    for rule in ALERTS:
        wanted = {name for name, _ in SELECTOR.findall(rule["expr"])}
        assert drawn.get(rule["alert"], set()) & wanted, rule["alert"]


def bounds(name: str) -> set[float]:
    """The value from which on an alert fires, as a panel shows it: a count is red from one on."""
    text = " ".join(rule["expr"] for rule in ALERTS if rule["alert"] == name)
    found = {
        float(low) * float(times or 1) for low, times in re.findall(r"> (?:(?=[\d.]+)([\d.]+))(?: \* ([\d.]+))?", text)
    }
    return {round(bound, 6) for bound in found} | ({1.0} if found & {0.0, 0.5} else set())


def test_a_panel_turns_red_where_its_alert_fires() -> None:
    drawn = 0
    for panel in panels():
        red = [one["value"] for one in panel["fieldConfig"]["defaults"]["thresholds"]["steps"] if one["color"] == "red"]
        named = set(re.findall(r"\w+", panel["description"].partition("Alert")[2])) & NAMED
        drawn += len(red)
        assert not red or any(red[0] in bounds(name) for name in named), panel["title"]
    assert drawn > 10


@pytest.mark.parametrize("name", sorted(DASHBOARDS))
def test_a_dashboard_asks_the_prometheus_and_the_cluster_that_are_chosen(name: str) -> None:
    board = DASHBOARDS[name]
    assert [one["name"] for one in board["templating"]["list"]] == ["datasource", "cluster"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    places = [panel["gridPos"] for panel in board["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    cells = [(x, y) for one in places for x in range(one["x"], one["x"] + one["w"])
             for y in range(one["y"], one["y"] + one["h"])]  # fmt: skip
    assert len(set(cells)) == len(cells), "panels overlap"
    for panel in board["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert all('cluster=~"$cluster"' in labels for _, labels in SELECTOR.findall(target["expr"]))


def test_the_dashboards_have_names_of_their_own() -> None:
    assert len({board["uid"] for board in DASHBOARDS.values()}) == len(DASHBOARDS)


def test_alerts_in_sql_are_called_as_their_rules() -> None:
    assert set(QUERIES) <= NAMED
    for name, text in QUERIES.items():
        severities = {rule["labels"]["severity"] for rule in ALERTS if rule["alert"] == name}
        assert set(re.findall(r"'(page|ticket)'", text)) <= severities
        assert f"'{name}' AS alert" in text


def test_the_page_for_operators_lists_every_alert_with_its_severity_and_whether_sql_can_ask() -> None:
    listed = {words(row[0])[0]: (row[1], row[2]) for row in rows(section("Alerts"))}
    assert set(listed) == NAMED
    for name, (severity, sql) in listed.items():
        assert set(severity.split(", ")) == {rule["labels"]["severity"] for rule in ALERTS if rule["alert"] == name}
        assert (sql == "yes") == (name in QUERIES), name


def test_no_secret_stands_in_an_example() -> None:
    for text in EXAMPLES:
        assert not re.search(r"^\s*#?\s*(password|bot_token|credentials|api_key|routing_key): ", text, re.MULTILINE)
        assert not re.search(r"^\s*smtp_auth_password: ", text, re.MULTILINE)


def test_what_silences_and_routes_goes_by_alerts_and_severities_that_exist() -> None:
    example = yaml.safe_load(EXAMPLES[1])
    named = re.findall(r'alertname !?[=~]+ "([^"]+)"', EXAMPLES[1])
    assert {name for value in named for name in value.split("|")} <= NAMED
    assert all(rule["equal"] == ["cluster"] for rule in example["inhibit_rules"])
    assert {route["receiver"] for route in example["route"]["routes"]} == {"page", "ticket"}


@needs_promtool
def test_promtool_understands_every_expression_of_the_dashboards(tmp_path: Path) -> None:
    drawn = expressions()[len(RULES) :]
    recorded = [{"record": f"drawn:{n}", "expr": expression} for n, expression in enumerate(drawn)]
    file = tmp_path / "drawn.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "drawn", "rules": recorded}]}))
    checked = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert f"{len(drawn)} rules found" in checked.stdout


def test_the_operations_page_points_here() -> None:
    assert "monitoring/rules" in PAGE
