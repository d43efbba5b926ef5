"""Reads the YAML of a policy file, and refuses what YAML would drop without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """A key that is given twice is an error: YAML keeps the last one, and the rules of the first would be gone."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.composer.ComposerError(
                        problem=f"{key.value[:60]!r} is given twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return node


def read_yaml(path: str | Path) -> Any:
    """The file's plain values. Raises OSError, ValueError (not UTF-8, or an impossible date) and `yaml.YAMLError`."""
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except RecursionError as e:
        raise yaml.YAMLError("nested too deeply") from e
