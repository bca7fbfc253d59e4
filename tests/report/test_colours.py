"""Text on a colour can be read, and colours that stand beside each other can be told apart."""

import pytest

from vllm_codesign.report import colours
from vllm_codesign.semconv import IdleCause, Part

EVERY = {*colours.PHASES.values(), *colours.CLIENT.values(), *colours.PARTS.values()}


def contrast(one: str, other: str) -> float:
    light, dark = sorted((colours.luminance(one), colours.luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_luminance_is_that_of_the_standard() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("colour", sorted(EVERY))
def test_names_can_be_read_on_it(colour: str) -> None:
    assert contrast(colour, colours.ink_on(colour)) >= 4.5


def test_every_part_and_cause_has_one() -> None:
    assert set(colours.PARTS) == {part.value for part in Part}
    assert set(colours.STRIP) == {"busy"} | {c.value for c in IdleCause} - {"no_work"}
