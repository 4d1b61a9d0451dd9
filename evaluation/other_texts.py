"""Texts by other people: another writer's tweets to compare with, and text for an n-gram baseline.

The name `chitchat` means the messages of the package chitchat-dataset: about 250,000 short ones, MIT licence.
"""

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from config.schema import DataConfig, UserError
from utils.clean import Cleaner
from utils.preprocess import Tweet
from utils.sources import read_posts

CHITCHAT, CHITCHAT_PACKAGE = "chitchat", "chitchat_dataset"


def read_tweets(name: str, settings: DataConfig, *, key: str) -> list[Tweet]:
    """The texts of a file of any kind that `preprocess` reads, or of `chitchat`, cleaned by the rules of `data`.

    Args:
        key: the setting that names them, for messages.

    Raises:
        UserError: it can't be read, or holds no text.
    """
    settings = replace(settings, column=None)
    if name == CHITCHAT:
        texts = chitchat()
    else:
        texts = (post.text for post in read_posts(name, settings).posts if not post.retweet)
    cleaner = Cleaner(settings)
    cleaned = (cleaner.clean(text) for text in texts)
    found = [Tweet(each.text, each.finished) for each in cleaned if not each.dropped]
    if not found:
        raise UserError(f"{key} {name} holds no text that passes the rules of `data`: give another file")
    return found


def chitchat() -> Iterator[str]:
    """The messages of the package chitchat-dataset.

    Raises:
        UserError: it is not installed.
    """
    package = importlib.util.find_spec(CHITCHAT_PACKAGE)
    if package is None or package.origin is None:
        raise UserError(f"{CHITCHAT} needs the package chitchat-dataset: pip install --no-deps chitchat-dataset==0.9.0")
    path = Path(package.origin).with_name("dataset.json")
    conversations = json.loads(path.read_text(encoding="utf-8"))
    return (
        message["text"]
        for conversation in conversations.values()
        for messages in conversation["messages"]
        for message in messages
    )
