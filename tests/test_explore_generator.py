# SPDX-License-Identifier: GPL-2.0-or-later
"""Scripts that are made: playable, equal for equal seeds, and around what the model decides."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from kvmharness import script
from kvmharness.explore import draft
from kvmharness.explore.coverage import Coverage
from kvmharness.explore.draft import Ground
from kvmharness.explore.generator import Generator, scripts
from kvmharness.guests import PROGRAMS
from kvmharness.model.arithmetic import cycles
from kvmharness.model.policies import POLICIES
from kvmharness.model.simulate import HOST, Step, simulate
from kvmharness.model.state import Host, World
from kvmharness.script import OPERATIONS, CreateVcpu, Run, Script, SetMsrs, SetTscKhz, SetVmTscKhz

GROUND = Ground(POLICIES["mainline-6.7"])
COUNT = 80
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def made() -> list[Script]:
    return scripts(GROUND, 7, COUNT)


def test_equal_seeds_make_equal_scripts_and_others_make_others(made: list[Script]) -> None:
    assert scripts(GROUND, 7, 5) == made[:5]
    assert scripts(GROUND, 8, 5) != made[:5]


def test_a_player_plays_every_script_to_its_end(made: list[Script]) -> None:
    for each in made:
        trace = simulate("", each, GROUND.policy, HOST)
        assert len(trace.events) == len(each)


def test_every_script_goes_to_json_and_back(made: list[Script]) -> None:
    for each in made:
        assert tuple(script.from_json(script.to_json(step)) for step in each) == each


def test_labels_of_a_script_are_unique(made: list[Script]) -> None:
    for each in made:
        labels = [step.label for step in each if step.label]
        assert len(labels) == len(set(labels))


def test_values_lie_on_both_sides_of_the_seconds_edges_and_times_beyond_32_bits(made: list[Script]) -> None:
    """What kvm_synchronize_tsc() compares a write with, in thousandths of a second away."""
    apart: Counter[str] = Counter()
    longest = 0
    before = World()

    def watch(step: Step) -> None:
        nonlocal before, longest
        operation, bracket = step.event.operation, step.event.bracket
        if isinstance(operation, SetMsrs) and operation.value_names == ("TSC",):
            elapsed = bracket.ns_before - before.last_tsc_nsec.low
            longest = max(longest, elapsed)
            expected = before.last_tsc_write.low + cycles(max(0, elapsed), HOST.khz or 0)
            away = (step.event.values[0] - expected) / (HOST.khz or 1)
            for name, least, most in (
                ("inside above", 900, 1000),
                ("outside above", 1000, 1100),
                ("inside below", -1000, -900),
                ("outside below", -1100, -1000),
                ("near", -5, 5),
            ):
                apart[name] += least < away < most
        before = step.world.fork()

    for each in made:
        before = World()
        simulate("", each, GROUND.policy, HOST, watch=watch)
    assert all(apart[name] for name in apart), apart
    assert longest > 2**32


def test_there_are_vms_of_one_vcpu_and_of_more_than_four(made: list[Script]) -> None:
    counts = {sum(step.creates_vcpu for step in each) for each in made}
    assert 1 in counts
    assert max(counts) > 4


# Of operations on the host only its clocksource's is one of explore's, where that may be changed.
KINDS = (
    *("clock", "guest", "hyperv", "khz", "msr", "nested", "runstate", "steal", "thread", "timer", "vcpu"),
    "xen",
)


def test_every_operation_on_a_vm_is_made_where_the_kernel_has_what_it_needs() -> None:
    left = {
        name for name, each in OPERATIONS.items() if each.__module__.rpartition(".operations.")[2] in KINDS
    }
    assert len(left) > 25
    left.remove("set_clock_during_run")  # of a vCPU that runs in another thread: no step of explore's
    generator = Generator(
        replace(GROUND, host=replace(HOST, has_scale=True, has_clock_guest=True), cpus=2), 9
    )
    for _ in range(1_000):
        left -= {step.name for step in generator.make().script}
        if not left:
            break
    assert not left


def test_what_the_host_lacks_is_not_asked_of_it() -> None:
    bare = replace(
        HOST, has_hyperv=False, has_steal_time=False, has_xen=False, has_nested=False, has_l2_scaling=False
    )
    found = {step.name for each in scripts(replace(GROUND, host=bare), 9, 40) for step in each}
    assert found.isdisjoint(
        {
            *("set_hv_cpuid", "read_reference_time", "read_tsc_page", "get_clock_guest", "get_tsc_scale"),
            *("read_steal_time", "wait_for_cpu", "set_xen", "set_xen_time", "read_xen_time"),
            *("set_xen_runstate", "read_xen_runstate"),
            *("run_l2", "nested_write", "set_clocksource"),
        }
    )


def test_the_hosts_clock_leaves_the_tsc_only_where_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft, "_LEAVES_TSC", 0.5)
    for may in (True, False):
        made = [step for each in scripts(replace(GROUND, may_leave_tsc=may), 9, 30) for step in each]
        assert any(step.host_clock_on_tsc is False for step in made) is may


def test_an_l2_has_a_rate_of_its_own_only_where_l1_may_give_it_one() -> None:
    for may in (True, False):
        host = replace(HOST, has_l2_scaling=may)
        made = [step for each in scripts(replace(GROUND, host=host), 9, 80) for step in each]
        assert any(step.name == "run_l2" for step in made)
        assert any(step.l2_rate_ppm is not None for step in made) is may


def test_endless_guests_run_for_less_than_a_millisecond(made: list[Script]) -> None:
    """Each ns of theirs is work for an emulator."""
    for each in made:
        guests: dict[int, str] = {}
        for step in each:
            if isinstance(step, CreateVcpu):
                guests.setdefault(step.vcpu, step.guest)  # a second creation is refused
            elif isinstance(step, Run):
                assert step.ns < 1_000_000 or not PROGRAMS[guests[step.vcpu]].endless


def test_no_wait_is_longer_than_the_ground_allows() -> None:
    short = Ground(GROUND.policy, most_wait_ns=SECOND)
    for each in scripts(short, 3, 30):
        assert all(step.waits_ns <= SECOND for step in each)


def test_no_vcpu_counts_slower_than_the_ground_allows() -> None:
    ground = replace(GROUND, least_khz=1_000)
    for steps in (
        (SetTscKhz(vcpu=0, khz=1_000), SetTscKhz(vcpu=0, khz=999)),
        (SetVmTscKhz(khz=999), CreateVcpu(vcpu=1)),
    ):
        made = draft.Draft(ground, Random(1))
        assert [made.add(step) is not None for step in (CreateVcpu(vcpu=0), *steps)] == [True, True, False]
        assert made.is_over
        assert made.script == (CreateVcpu(vcpu=0), steps[0])


def test_the_lowest_rates_are_set_only_where_they_may_be() -> None:
    for least in (0, 1_000):
        generator = Generator(replace(GROUND, least_khz=least), 5, guided=False)
        made = [step for _ in range(200) for step in generator.make().script]
        rates = {step.khz for step in made if isinstance(step, SetTscKhz)}
        assert (1 in rates) is (least == 0)


def test_guidance_reaches_more_with_as_many_scripts() -> None:
    guided, any_ones = (Generator(GROUND, 3, guided=guided) for guided in (True, False))
    for _ in range(40):
        guided.make()
        any_ones.make()
    assert len(guided.coverage) > len(any_ones.coverage)


def test_what_reached_something_new_is_kept_and_begun_with_the_next_time(made: list[Script]) -> None:
    first = Generator(GROUND, 5)
    assert first.make().new > 0
    assert len(first.kept) == 1
    assert Generator(GROUND, 5, made).make().script != first.kept[0], "made of what was there before, too"


def test_what_was_reached_often_is_worth_less() -> None:
    coverage = Coverage()
    assert coverage.add([("a",), ("b",), ("a",)]) == 2
    assert coverage.add([("b",)]) == 0
    assert coverage.worth([("c",)]) > coverage.worth([("a",)]) > coverage.worth([("b",)])


@pytest.mark.parametrize(
    "host", [Host(), Host(khz=999_951, stable=False), Host(khz=2_000_000, fraction_bits=0)]
)
def test_the_model_can_play_on_a_host_of_which_little_is_known(host: Host) -> None:
    known = draft.known(host)
    assert None not in (known.khz, known.fraction_bits, known.has_attribute, known.tsc_clocksource)
    assert scripts(Ground(GROUND.policy, host), 1, 3)
