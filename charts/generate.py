"""What is written from another source: the chart's CRDs and dashboards, manifests/install.yaml, tables of two pages of docs.

In: manifests/crd/*.yaml (from finetune_api), the chart, values.schema.json, reasons.py, dashboards.py, alerts and series. Out: files,
with a line that says where they come from, where they can hold one. `python -m charts.generate` writes all but install.yaml, which
needs `--helm PATH`.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from charts.dashboards import DASHBOARDS, grafana

ROOT: Final = Path(__file__).resolve().parents[1]
CHART: Final = ROOT / "charts/finetune-operator"
ALERTS: Final = CHART / "files/alerts.yaml"
RELEASE: Final = "finetune-operator"
NAMESPACE: Final = "finetune-system"
REFERENCE: Final = ROOT / "docs/operator.md"
WATCHING: Final = ROOT / "docs/watch.md"
SERIES: Final = ROOT / "manifests/kube-state-metrics.yaml"
REASONS: Final = ROOT / "operator/finetune_api/reasons.py"

_INSTALL_HEADER: Final = f"""\
# Generated from charts/finetune-operator by `make generate`: kubectl apply --server-side -f manifests/install.yaml
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""


def crd_template(crd: str) -> str:
    """The CRD as a template, behind crds.enabled and with nothing in it that Helm would run.

    >>> print(crd_template("kind: X\\ndescription: '{{ }}'\\n"), end="")
    {{- if .Values.crds.enabled }}
    kind: X
    description: '{{ "{{" }} }}'
    {{- end }}
    """
    return "{{- if .Values.crds.enabled }}\n" + crd.replace("{{", '{{ "{{" }}') + "{{- end }}\n"


def crd_templates() -> dict[Path, str]:
    """Text by path, of every CRD of ours."""
    crds = sorted((ROOT / "manifests/crd").glob("*.yaml"))
    return {CHART / "templates/crds" / crd.name: crd_template(crd.read_text(encoding="utf-8")) for crd in crds}


def dashboards() -> dict[Path, str]:
    """Text by path, of Grafana's dashboards."""
    return {CHART / "files/dashboards" / name: json.dumps(grafana(found), indent=1) + "\n" for name, found in DASHBOARDS.items()}


def install_manifest(helm: Path) -> str:
    """The chart with its default values, and the namespace that it goes to."""
    command = [str(helm), "template", RELEASE, str(CHART), "--namespace", NAMESPACE]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return _INSTALL_HEADER + rendered


def settings_table() -> str:
    """A row for each value: its path, default and description."""
    import yaml

    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    rows = [f"| `{path}` | {_default(default)} | {text} |" for path, default, text in _settings(schema, values)]
    return "\n".join(["| value | default | meaning |", "| --- | --- | --- |", *rows, ""])


def _settings(schema: dict[str, Any], values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any, str]]:
    """Leaves in the schema's order; `global` is Helm's own."""
    for name, field in schema["properties"].items():
        if name in values and "properties" in field:
            yield from _settings(field, values[name], f"{above}{name}.")
        elif name in values:
            yield f"{above}{name}", values[name], field["description"].replace("|", "\\|")


def _default(value: Any) -> str:
    return "" if value in ("", [], {}) else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def reasons_table(source: str) -> str:
    """A row for each reason, from the comments beside and above the words: the one place where they are explained.

    >>> print(reasons_table("# ---- Planned\\nINVALID_SPEC = 'InvalidSpec'  # False: refused\\n".replace("'", '"')), end="")
    | of | reason | when |
    | --- | --- | --- |
    | Planned | `InvalidSpec` | False: refused |
    """
    rows, section, group = [], "", ""
    for line in source.splitlines():
        if heading := re.fullmatch(r"\s*# ---- (.+)", line):
            section, group = heading[1], ""
        elif comment := re.fullmatch(r"\s*# (.+)", line):
            group = comment[1]
        elif word := re.fullmatch(r'\s*[A-Z_]+ = "(\w+)"(?:  # (.+))?', line):
            rows.append(f"| {section} | `{word[1]}` | {word[2] or group} |")
    return "\n".join(["| of | reason | when |", "| --- | --- | --- |", *rows, ""])


def series_table() -> str:
    """A row for each series that kube-state-metrics makes of a job."""
    import yaml

    [resource] = yaml.safe_load(SERIES.read_text(encoding="utf-8"))["customResourceState"]["config"]["spec"]["resources"]
    rows = []
    for metric in resource["metrics"]:
        each = metric["each"]
        kind = each[each["type"][0].lower() + each["type"][1:]]
        labels = [*([kind["labelName"]] if "labelName" in kind else []), *kind.get("labelsFromPath", {})]
        shown = f"`{resource['metricNamePrefix']}_{metric['name']}{'{' + ','.join(labels) + '}' if labels else ''}`"
        rows.append(f"| {shown} | {metric['help']} | {'.'.join(kind.get('path', [])) or 'spec'} |")
    return "\n".join(["| series | meaning | from |", "| --- | --- | --- |", *rows, ""])


def alerts_table() -> str:
    """A row for each alert; what Prometheus fills in is left out."""
    import yaml

    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    rows = []
    for rule in (rule for group in groups for rule in group["rules"]):
        told = _plain(rule["annotations"]["description"])
        rows.append(f"| `{rule['alert']}` | {rule['labels']['severity']} | {rule.get('for', 'at once')} | {told} |")
    return "\n".join(["| alert | severity | after | what it means |", "| --- | --- | --- | --- |", *rows, ""])


def _plain(text: str) -> str:
    """
    >>> _plain("`kubectl -n {{ $labels.namespace }} get x {{ $labels.name }}` says: {{ $value | humanize }}")
    '`kubectl -n NAMESPACE get x NAME` says: VALUE'
    """
    return re.sub(r"\{\{ \$(?:labels\.)?(\w+)[^}]*\}\}", lambda found: found[1].upper(), text)


def with_table(document: str, name: str, table: str) -> str:
    """The document with the table between the marks of that name."""
    pattern = rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end of {name} -->\n)"
    assert re.search(pattern, document, re.DOTALL), f"a page of docs lost the marks of its table of {name}"
    return re.sub(pattern, lambda marks: marks[1] + table + marks[2], document, flags=re.DOTALL)


def reference() -> str:
    """docs/operator.md with its tables."""
    document = with_table(REFERENCE.read_text(encoding="utf-8"), "settings", settings_table())
    return with_table(document, "reasons", reasons_table(REASONS.read_text(encoding="utf-8")))


def watching() -> str:
    """docs/watch.md with its tables."""
    document = with_table(WATCHING.read_text(encoding="utf-8"), "series", series_table())
    return with_table(document, "alerts", alerts_table())


def generated(helm: Path | None) -> dict[Path, str]:
    """Every generated file with the text that it should have; install.yaml needs Helm and the CRD templates on disk."""
    files = crd_templates() | dashboards() | {REFERENCE: reference(), WATCHING: watching()}
    return files | ({ROOT / "manifests/install.yaml": install_manifest(helm)} if helm else {})


def main(arguments: Sequence[str] | None = None) -> None:
    """Write them; templates of CRDs that no longer exist go. With --check, name those that would be changed, and exit with 1."""
    parser = argparse.ArgumentParser(prog="python -m charts.generate", description=main.__doc__)
    parser.add_argument("--helm", type=Path, help="helm 4; without it manifests/install.yaml stays as it is")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    if options.check:
        stale = [path for path, text in generated(options.helm).items() if not path.exists() or path.read_text(encoding="utf-8") != text]
        sys.exit("".join(f"{path.relative_to(ROOT)} is not as generated; run `make generate`\n" for path in stale) or 0)
    helm = options.helm
    templates = crd_templates()
    for stale in set((CHART / "templates/crds").glob("*.yaml")) - set(templates):
        stale.unlink()
    _write(templates)
    _write(generated(helm))


def _write(files: dict[Path, str]) -> None:
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
