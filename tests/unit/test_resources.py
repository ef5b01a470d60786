"""Resources as words and numbers, and what a worker makes of what it was told and of what it finds."""

from __future__ import annotations

import pytest

from mrun.engine.resources import Demand, Inventory, Told, read_demands, read_resources, take_stock

FOUND = Inventory(slots=4, cpus=4, gpus=2, gpu_places=("5", "GPU-a"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cpus=32,gpus=4,licenses/foo=2", Told(cpus=32, gpus=4, named=(("licenses/foo", 2),))),
        ("gpus=0", Told(gpus=0)),
        (" jobs = 5 , b=1,a=2 ", Told(jobs=5, named=(("a", 2), ("b", 1)))),
        ("cpus=8-11,gpus=2-2", Told(cpus=4, gpus=1, cpu_places=(8, 9, 10, 11), gpu_places=(2,))),
    ],
)
def test_what_resources_say(text, told):
    assert read_resources(text) == told


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'' is no name of a resource"),
        ("cpus", "'cpus' does not read NAME=NUMBER"),
        ("cpus=many", "'cpus=many' does not read NAME=NUMBER"),
        ("cpus=0", "'cpus=0' is no amount"),
        ("a=0", "'a=0' is no amount"),
        ("cpus=3-2", "'cpus=3-2' is no amount"),
        ("a=1-2", "'a=1-2' does not read NAME=NUMBER"),
        ("cpus=1,cpus=2", "'cpus' stands twice"),
        ("slots=2", "'slots' is no name of a resource"),
        ("a b=2", "'a b' is no name of a resource"),
        ("gpu=2", "'gpu' is no name of a resource; did you mean 'gpus'\\?"),
        ("cpus=99999999", "'cpus=99999999' does not read NAME=NUMBER"),
    ],
)
def test_what_resources_can_not_say(text, why):
    with pytest.raises(ValueError, match=f"^{why}$"):
        read_resources(text)


def test_a_worker_that_was_told_nothing_has_what_it_finds():
    assert take_stock(Told(), None, FOUND, range(4)) == FOUND


def test_slots_that_are_told_are_as_many_cpus():
    has = take_stock(Told(), 16, FOUND, range(4))
    assert (has.slots, has.cpus, has.has_told_cpus, has.cpu_places) == (16, 16, False, ())


@pytest.mark.parametrize(
    ("told", "places"),
    [
        # The first of ours; those that were named; and numbers alone, where there are not so many
        (Told(cpus=2), (1, 3)),
        (Told(cpus=2, cpu_places=(3, 4)), (3, 4)),
        (Told(cpus=5), (0, 1, 2, 3, 4)),
    ],
)
def test_told_cpus_have_places(told, places):
    has = take_stock(told, None, FOUND, (3, 1, 5))
    assert (has.slots, has.cpus, has.has_told_cpus, has.cpu_places) == (told.cpus, told.cpus, True, places)


@pytest.mark.parametrize(
    ("told", "places"),
    [
        (Told(), ("5", "GPU-a")),
        (Told(gpus=1), ("5",)),
        (Told(gpus=2, gpu_places=(6, 7)), ("6", "7")),
        (Told(gpus=3), ("0", "1", "2")),
        (Told(gpus=0), ()),
    ],
)
def test_gpus_keep_the_names_that_they_were_found_with(told, places):
    has = take_stock(told, None, FOUND, range(4))
    assert (has.gpus, has.gpu_places, has.has_told_gpus) == (len(places), places, told.gpus is not None)


def test_told_slots_and_told_cpus_are_two_bounds():
    has = take_stock(Told(cpus=8), 2, FOUND, range(4))
    assert has.amounts == {"slots": 2, "cpus": 8, "gpus": 2, "jobs": 100}
    assert has.text == "cpus=8,gpus=2"


def test_a_class_of_which_nothing_is_said_takes_a_cpu():
    assert [one.amounts for one in read_demands(None, 2)] == [Demand().amounts] * 2
