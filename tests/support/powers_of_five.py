"""Make loader/kernel/powers_of_five.h: ``python tests/support/powers_of_five.py > loader/kernel/powers_of_five.h``.

A power of five as Eisel's and Lemire's algorithm wants it: its first 128 bits, the highest of them 1, rounded up where
they are a reciprocal that 64 bits times it can still meet exactly (down to 5^-27), else down.
"""

from __future__ import annotations

LEAST, MOST = -342, 308
"""Of 19 digits, times ten to a smaller or greater power, there is no double but 0 and infinity."""


def power_of_five(exponent: int) -> int:
    """Its first 128 bits as a number."""
    power = 5 ** abs(exponent)
    if exponent >= 0:
        return power << 128 >> power.bit_length()
    return (1 << power.bit_length() + 127) // power + (exponent >= -27)


def header() -> str:
    """The file."""
    lines = [
        "/* Made by tests/support/powers_of_five.py: the first 128 bits of the powers of five, high and low half. */",
        "#ifndef LOADER_POWERS_OF_FIVE_H",
        "#define LOADER_POWERS_OF_FIVE_H",
        "",
        "#include <stdint.h>",
        "",
        f"enum {{ LEAST_POWER = {LEAST}, MOST_POWER = {MOST} }};",
        "",
        "static const uint64_t POWERS_OF_FIVE[MOST_POWER - LEAST_POWER + 1][2] = {",
    ]
    for exponent in range(LEAST, MOST + 1):
        high, low = divmod(power_of_five(exponent), 1 << 64)
        lines.append(f"    {{UINT64_C(0x{high:016x}), UINT64_C(0x{low:016x})}},")
    return "\n".join([*lines, "};", "", "#endif", ""])


if __name__ == "__main__":
    print(header(), end="")
