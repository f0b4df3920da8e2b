"""Counts by difficulty and what they cost."""

import pytest

from opkit.data import mixture

COSTS = {"easy": 20.0, "medium": 50.0, "hard": 160.0}


def test_counts_follow_the_fractions_and_the_cost_is_theirs():
    found = mixture(COSTS, {"hard": 1, "easy": 3}, samples=10)
    assert found.counts == {"hard": 3, "easy": 7}  # 2.5 and 7.5: the first of equal remainders
    assert found.spent == {"hard": 480.0, "easy": 140.0}
    assert found.cost == 620.0
    thirds = mixture(COSTS, dict.fromkeys(COSTS, 1 / 3), samples=100)
    assert sorted(thirds.counts.values()) == [33, 33, 34]


@pytest.mark.parametrize("fractions", [{"hard": 1.0}, {"hard": 0.25, "easy": 0.75}, {"hard": 0.1, "medium": 0.9}])
@pytest.mark.parametrize("budget", [200.0, 777.0, 64_000.0])
def test_a_budget_pays_for_what_it_buys_and_for_no_sample_more(fractions, budget):
    found = mixture(COSTS, fractions, budget=budget)
    assert found.cost <= budget
    assert mixture(COSTS, fractions, samples=sum(found.counts.values()) + 1).cost > budget
    mean = sum(share * COSTS[name] for name, share in fractions.items())
    assert abs(sum(found.counts.values()) - budget / mean) < 3


@pytest.mark.plain
def test_what_cannot_be_mixed_is_refused():
    for message, fractions, options in (
        (r"`costs` has no positive cost of \['extreme'\]", {"extreme": 1.0}, {"samples": 1}),
        ("`fractions` are .*one positive", {"easy": 0.0}, {"samples": 1}),
        ("`fractions` are .*none negative", {"easy": -1.0, "hard": 2.0}, {"samples": 1}),
        ("`samples` is None, `budget` None; give one", {"easy": 1.0}, {}),
        ("`samples` is 3, `budget` 3.0; give one", {"easy": 1.0}, {"samples": 3, "budget": 3.0}),
        ("expected enough for one sample", {"hard": 1.0}, {"budget": 159.0}),
    ):
        with pytest.raises(ValueError, match=message):
            mixture(COSTS, fractions, **options)
