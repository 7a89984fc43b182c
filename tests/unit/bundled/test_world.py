"""Evaluation tasks: deterministic examples, disjoint splits, and mappings that pretraining never uses."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from vlibrary.bundled.making.episodes import HELD_OUT, Difficulty, Pool, agreement, draw_episode, draw_mapping
from vlibrary.bundled.tasks import TASKS, Task, examples, task
from vlibrary.bundled.world import digits
from vlibrary.bundled.world.words import EXPLICIT_NOUNS, NEUTRAL_NOUNS, VALUES, domain_of

IDS = [each.name for each in TASKS]


def test_at_least_six_of_at_least_twelve_tasks_are_held_out() -> None:
    assert len(TASKS) >= 12
    assert sum(each.held_out for each in TASKS) >= 6
    assert len(set(IDS)) == len(TASKS)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name) for name in IDS)


def test_no_two_tasks_share_a_question() -> None:
    questions = [wording for each in TASKS for wording in each.wordings]
    assert len(set(questions)) == len(questions)


def test_an_unknown_name_raises_an_error_with_the_known_names() -> None:
    with pytest.raises(KeyError, match="colour-code"):
        task("nothing")


@pytest.mark.parametrize("each", TASKS, ids=IDS)
def test_examples_are_deterministic_and_fit_the_task(each: Task) -> None:
    drawn = examples(each, "test", 24, seed=3)
    assert drawn == examples(each, "test", 24, seed=3)
    assert drawn != examples(each, "test", 24, seed=4)
    assert {item.question for item in drawn} <= set(each.wordings)
    assert {item.answer for item in drawn} <= set(each.answers.values())
    with Image.open(io.BytesIO(drawn[0].image)) as picture:
        assert (picture.size, picture.mode, picture.format) == ((32, 32), "RGB", "PNG")


@pytest.mark.parametrize("each", TASKS, ids=IDS)
def test_train_and_test_share_no_image(each: Task) -> None:
    train = {item.image for item in examples(each, "train", 64, seed=1)}
    test = {item.image for item in examples(each, "test", 64, seed=1)}
    assert not train & test


def test_the_split_of_the_scans_is_fixed() -> None:
    train = np.concatenate(digits.scan_ids("train"))
    test = np.concatenate(digits.scan_ids("test"))
    assert sorted([*train, *test]) == list(range(1797))
    assert len(test) > 500


def _pool(number: int = 400) -> Pool:
    """A pool of labels without images: half scenes, half digits."""
    rng = np.random.default_rng(0)
    labels = {}
    for name, values in VALUES.items():
        drawn = rng.integers(len(values), size=number)
        visible = np.arange(number) % 2 == (domain_of(name) == "digit")
        labels[name] = np.where(visible, drawn, -1)
    return Pool(labels)


def test_no_held_out_mapping_occurs_in_pretraining() -> None:
    rng, pool = np.random.default_rng(1), _pool()
    shares = dict.fromkeys(VALUES, 1 / len(VALUES))
    for level in (0.0, 0.5, 1.0):
        for _ in range(700):
            episode = draw_episode(pool, 17, Difficulty.at(level, level), rng, shares)
            assert agreement(episode.attribute, episode.words) <= 1


@pytest.mark.parametrize("attribute", ["parity", "half", "size"])
def test_a_mapping_close_to_a_held_out_one_is_drawn_again(attribute: str) -> None:
    class Rigged:
        """Proposes the held-out mapping first, then a harmless one."""

        def __init__(self) -> None:
            self.proposals = 0

        def choice(self, words: int, size: int, replace: bool) -> list[int]:
            from vlibrary.bundled.world.words import CODE_WORDS

            self.proposals += 1
            held_out = [CODE_WORDS.index(word) for word in HELD_OUT[attribute].values()]
            return held_out if self.proposals == 1 else [(at + 1) % words for at in held_out]

    rigged = Rigged()
    values = list(range(len(VALUES[attribute])))
    words = draw_mapping(attribute, values, rigged)  # type: ignore[arg-type]
    assert rigged.proposals == 2
    assert agreement(attribute, words) <= 1


def test_a_neutral_noun_is_used_with_every_attribute() -> None:
    rng, pool = np.random.default_rng(2), _pool()
    shares = dict.fromkeys(VALUES, 1 / len(VALUES))
    used: dict[str, set[str]] = {}
    for _ in range(5000):
        episode = draw_episode(pool, 2, Difficulty.at(1.0, 1.0), rng, shares)
        if episode.ambiguous:
            used.setdefault(episode.noun, set()).add(episode.attribute)
    assert set(used) == set(NEUTRAL_NOUNS)
    assert all(attributes == set(VALUES) for attributes in used.values())
    explicit = {noun for pair in EXPLICIT_NOUNS.values() for noun in pair}
    assert not explicit & set(NEUTRAL_NOUNS)


def test_the_final_difficulty_keeps_easy_episodes() -> None:
    last = Difficulty.at(1.0, 1.0)
    assert last.repeats > 0
    assert last.ambiguous < 1
    assert last.all_values < 1
