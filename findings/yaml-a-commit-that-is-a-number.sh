#!/usr/bin/env bash
# A commit's short name is a string for one YAML reader and a number for another.
#
# Guess: 1234e56 isn't a number to anybody who reads YAML, or to everybody.
# Seen: PyYAML 6.0.3 (YAML 1.1, where an exponent needs a sign and a number a point) reads a string; ruamel.yaml 0.18.16 (YAML 1.2, as Go's
# readers, and so kubectl) reads 1.234e+59. With `on` it is the other way round: a boolean in 1.1, a string in 1.2.
source "$(dirname "$0")/_common"
environment env pyyaml==6.0.3 ruamel.yaml==0.18.16
expect "$("$work/env/bin/python" <<'PYTHON'
import ruamel.yaml
import yaml

text = "{revision: 1234e56, branch: on}"
print(yaml.safe_load(text))
print(dict(ruamel.yaml.YAML(typ="safe").load(text)))
PYTHON
)" "{'revision': '1234e56', 'branch': True}
{'revision': 1.234e+59, 'branch': 'on'}"
