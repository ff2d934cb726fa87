"""The library behind "Add a reward": every reward there is, by kind, with a search."""

from html import escape

from lab.core.rewards.registry import GOAL, REWARDS, SHAPE, Reward

HEADS = {GOAL: ("Goals", "Is it right?"), SHAPE: ("Shapes", "Is it well made?")}


def library_html() -> str:
    """Every reward as a button that adds it or takes it away."""
    groups = "".join(_group_html(kind, [r for r in REWARDS.values() if r.kind == kind])
                     for kind in HEADS)
    return ("<details class='library' id='add-reward'><summary>Add a reward</summary>"
            "<div class='inside'><input type='search' placeholder='Search rewards' "
            f"aria-label='Search rewards' autocomplete='off'>{groups}"
            "<p class='none help' role='status' hidden>No reward fits. Try one word, or write one "
            "of your own.</p></div></details>")


def _group_html(kind: str, rewards: list[Reward]) -> str:
    title, question = HEADS[kind]
    items = "".join(map(_item_html, rewards))
    return (f"<div class='kind-group' role='group' aria-label='{title}'><h4>{title} "
            f"<span class='help'>{question}</span></h4><div class='items'>{items}</div></div>")


def _item_html(reward: Reward) -> str:
    text = f"{reward.label} {reward.name} {reward.help} {reward.kind}".lower()
    return (f"<button type='button' class='item {reward.kind}' data-name='{escape(reward.name)}' "
            f"data-text='{escape(text)}' aria-pressed='false'><span class='title'>"
            f"{escape(reward.label)}</span><span class='text'>{escape(first_sentence(reward.help))}"
            "</span></button>")


def first_sentence(text: str) -> str:
    end = text.find(". ")
    return text if end < 0 else text[:end + 1]
