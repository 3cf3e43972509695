"""Whose word counts of several sentinels, and what the one that leads a failover tells of it."""

from __future__ import annotations

import pytest

from rtx.topology.sentinel_words import Council, Course, Word, word_of
from rtx.urls import Address

ONE, TWO, THREE = (Address("127.0.0.1", port) for port in (1, 2, 3))
A, B, C = (Address("10.0.0.1", port) for port in (10, 11, 12))


@pytest.fixture
def council() -> Council:
    return Council(3)


# --- words ----------------------------------------------------------------------------------


def test_the_newest_epoch_counts_and_a_sentinel_that_lags_cannot_lead_back(
    council: Council,
) -> None:
    for sentinel in (ONE, TWO, THREE):
        council.hear(sentinel, Word(4, A))
    assert council.known == Word(4, A)
    council.hear(ONE, Word(5, B))
    for _ in range(3):
        council.hear(TWO, Word(4, A))
        council.hear(THREE, Word(4, A))
    assert council.known == Word(5, B)
    council.hear(TWO, Word(5, B))
    assert council.known == Word(5, B)


def test_a_newer_epoch_of_the_same_primary_outranks_an_older_one_of_another(
    council: Council,
) -> None:
    council.hear(ONE, Word(4, A))
    council.hear(ONE, Word(6, A))
    council.hear(TWO, Word(5, B))
    assert council.known == Word(6, A)


def test_a_primary_that_denies_being_one_is_overruled_by_most_sentinels(council: Council) -> None:
    council.hear(ONE, Word(9, A))
    council.denied = council.known
    council.hear(TWO, Word(2, B))
    assert council.known == Word(9, A)  # one of three is not most
    council.hear(THREE, Word(2, C))
    assert council.known == Word(9, A)
    council.hear(THREE, Word(2, B))
    assert council.known == Word(2, B)
    council.hear(ONE, Word(9, A))
    assert council.known == Word(2, B)  # denied once, it is not believed from one who repeats it
    council.hear(ONE, Word(10, A))
    assert council.known == Word(10, A)


def test_sentinels_that_went_silent_do_not_count_as_most(council: Council) -> None:
    council.hear(ONE, Word(2, B))
    council.hear(TWO, Word(2, B))
    council.hear(THREE, Word(9, A))
    council.denied = council.known
    council.lose(ONE)
    council.hear(TWO, Word(2, B))
    assert council.known == Word(9, A)


# --- words that come before the sentinels' own ------------------------------------------------


def test_what_is_taken_early_is_confirmed_by_the_first_sentinel_that_says_it(
    council: Council,
) -> None:
    council.hear(ONE, Word(4, A))
    council.hear_early(Word(5, B))
    assert council.known == Word(5, B)
    assert council.early
    council.hear(TWO, Word(4, A))  # it lags
    assert council.known == Word(5, B)
    assert council.early
    council.hear(ONE, Word(5, B))
    assert not council.early
    council.recall()
    assert council.known == Word(5, B)


def test_what_no_sentinel_confirms_is_taken_back_and_counts_when_one_does(
    council: Council,
) -> None:
    council.hear(ONE, Word(4, A))
    council.hear_early(Word(5, B))
    council.recall()
    assert council.known == Word(4, A)
    assert not council.early
    council.hear(ONE, Word(5, B))
    assert council.known == Word(5, B)


def test_another_choice_of_a_later_failover_outranks_an_early_one(council: Council) -> None:
    council.hear(ONE, Word(4, A))
    council.hear_early(Word(5, B))
    council.hear_early(Word(6, C))
    assert council.known == Word(6, C)
    council.hear_early(Word(5, B))
    assert council.known == Word(6, C)
    council.recall()
    assert council.known == Word(4, A)  # neither was ever confirmed
    council.hear_early(Word(5, B))
    council.hear(ONE, Word(7, C))
    assert council.known == Word(7, C)
    assert not council.early


def test_nothing_is_taken_early_that_is_old_denied_or_has_nothing_before_it(
    council: Council,
) -> None:
    council.hear_early(Word(5, B))
    assert council.known is None
    council.hear(ONE, Word(5, A))
    council.hear_early(Word(5, B))
    assert council.known == Word(5, A)
    council.denied = Word(6, B)
    council.hear_early(Word(6, B))
    assert council.known == Word(5, A)


# --- what a sentinel publishes ----------------------------------------------------------------

TRY = (b"+try-failover", b"master trading-redis 10.0.0.1 10")
CHOICE = (b"+selected-slave", b"slave 10.0.0.1:11 10.0.0.1 11 @ trading-redis 10.0.0.1 10")


def told(*messages: tuple[bytes, bytes]) -> list[Word | None]:
    course = Course("trading-redis")
    return [course.hear(channel, payload) for channel, payload in messages]


def test_a_choice_has_the_epoch_of_the_failover_that_it_belongs_to() -> None:
    assert told((b"+new-epoch", b"7"), TRY, CHOICE) == [None, None, Word(7, B)]
    again = ((b"+new-epoch", b"7"), TRY, (b"+new-epoch", b"8"), TRY, CHOICE)
    assert told(*again)[-1] == Word(8, B)


def test_epochs_of_other_failovers_are_not_taken_for_its_own() -> None:
    other = (b"+try-failover", b"master other 10.0.0.9 10")
    mixed = (
        (b"+new-epoch", b"7"),
        TRY,
        (b"+new-epoch", b"8"),
        other,
        (b"+new-epoch", b"9"),
        CHOICE,
    )
    assert told(*mixed)[-1] == Word(7, B)


@pytest.mark.parametrize(
    "messages",
    [
        [CHOICE],  # joined when the failover had begun
        [TRY, CHOICE],
        [(b"+new-epoch", b"7"), CHOICE],  # led by another
        [(b"+new-epoch", b"seven"), TRY, CHOICE],
        [(b"+new-epoch", b"7"), (b"+try-failover", b"master other 10.0.0.9 10"), CHOICE],
        [(b"+new-epoch", b"7"), TRY, (b"+selected-slave", CHOICE[1].replace(b"trading", b"x"))],
        [(b"+new-epoch", b"7"), TRY, (b"+selected-slave", CHOICE[1].replace(b"1 11", b"1 port"))],
        [(b"+new-epoch", b"7"), TRY, (b"+selected-slave", b"")],
        [(b"+new-epoch", b"7"), TRY, (b"+promoted-slave", CHOICE[1])],
    ],
)
def test_what_is_not_surely_a_choice_for_the_service_is_none(
    messages: list[tuple[bytes, bytes]],
) -> None:
    assert told(*messages)[-1] is None


# --- what a sentinel answers ------------------------------------------------------------------


def test_the_address_that_a_sentinel_gives_counts_and_not_that_of_the_former_primary() -> None:
    state = {b"ip": b"10.0.0.1", b"port": b"10", b"config-epoch": b"7"}
    assert word_of(state, [b"10.0.0.1", b"11"]) == Word(7, B)
    assert word_of(state, None) == Word(7, A)
    assert word_of(None, [b"10.0.0.1", b"11"]) is None
    assert word_of([b"10.0.0.1"], None) is None
