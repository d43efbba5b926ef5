"""Families of weaknesses: analysers and labels name the same mistake by different CWE numbers.

Bandit says CWE-259 of a password in the source and a label says CWE-798; both are `credentials`. A number that no
family has is a family of its own, so nothing is matched that the tables do not say.
"""

from __future__ import annotations

import re

FAMILIES: dict[str, tuple[int, ...]] = {
    "command-injection": (77, 78, 88),
    "code-injection": (94, 95, 96, 1336),
    "sql-injection": (89, 564, 943),
    "xss": (79, 80, 83, 87, 116),
    "ldap-xpath-injection": (90, 91, 643),
    "log-injection": (93, 113, 117),
    "path-traversal": (22, 23, 36, 73, 99, 641),
    "deserialisation": (502,),
    "xml-entities": (611, 776, 827),
    "server-side-request": (918, 601),
    "file-upload": (434,),
    "weak-cryptography": (326, 327, 328, 329, 759, 760, 916, 1204),
    "weak-randomness": (330, 331, 335, 338, 339),
    "credentials": (256, 259, 321, 522, 798),
    "certificate-validation": (295, 297, 299, 322),
    "cleartext": (311, 312, 319, 523),
    "signature-validation": (345, 347, 494),
    "temporary-file": (377, 378, 379),
    "permissions": (250, 266, 269, 276, 281, 285, 732),
    "authentication": (287, 306, 521, 620),
    "exposure": (200, 209, 215, 489, 497, 532),
    "network-binding": (605, 1327),
    "resource-exhaustion": (400, 406, 409, 674, 730, 770, 835, 1333),
    "error-handling": (252, 390, 391, 703, 754, 755),
    "race": (362, 367),
    "out-of-bounds": (119, 120, 121, 122, 124, 125, 126, 127, 131, 193, 676, 787, 788),
    "integer": (190, 191, 680),
    "lifetime": (415, 416, 825),
    "null-pointer": (476, 690),
}

# What these tests of bandit check is another matter than the CWE that it gives for them: CWE-20, "improper input
# validation", of parsers of XML, CWE-78 of `eval`.
NARROWER: dict[tuple[str, str], str] = {
    **{("bandit", f"B{n}"): "xml-entities" for n in (*range(313, 321), *range(405, 412))},
    ("bandit", "B506"): "deserialisation",  # yaml.load; CWE-20
    ("bandit", "B102"): "code-injection",  # exec; CWE-78
    ("bandit", "B307"): "code-injection",  # eval; CWE-78
    ("bandit", "B701"): "xss",  # Jinja2 without autoescape; CWE-94
}

_OF = {number: family for family, numbers in FAMILIES.items() for number in numbers}
_NUMBER = re.compile(r"\s*(?:cwe)?[-_ ]*0*(\d{1,5})\b", re.IGNORECASE)


def cwe_number(name: str | int | None) -> int | None:
    """78 of 78, "CWE-78", "cwe-078" or "CWE-78: OS Command Injection"; None of what is no CWE."""
    if isinstance(name, int):
        return name if name > 0 else None
    found = _NUMBER.match(name or "")
    return int(found[1]) or None if found else None


def family(name: str | int | None) -> str | None:
    """The family of a CWE: `CWE-<number>` where no family has it, None of what is no CWE."""
    number = cwe_number(name)
    return None if number is None else _OF.get(number, f"CWE-{number}")


def family_of_finding(analyser: str, test: str, cwe: int | None) -> str:
    """The family of a finding; `<analyser>:<test>` where the analyser gives no CWE for it."""
    return NARROWER.get((analyser, test)) or family(cwe) or f"{analyser}:{test}"
