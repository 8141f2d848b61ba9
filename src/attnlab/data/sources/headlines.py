"""The built-in corpus: news-like articles of a grammar, with accuracy ceilings that are known by construction.

Every article has a title on one topic and a body on another or the same one, and its class is the topic of the title.
Both clauses come from the same grammar and have the same form in either place, so exchanging the two topics gives
another article that is just as likely, with the same words and the other class: only their order tells them apart. See
`ceilings` for the consequences.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from annotated_types import Ge

from attnlab.data.corpus import SPLITS, Corpus, Labels, Split, multi_hot
from attnlab.data.sources.base import Source
from attnlab.data.tables import Origin
from attnlab.errors import UserError

Topics = npt.NDArray[np.int64]  # [N], the number of a topic in `TOPICS`
Words = npt.NDArray[np.object_]

# For each topic: who does what to what, and where. "{}" stands for a made-up name.
TOPICS: dict[str, dict[str, str]] = {
    "World": {
        "who": "envoys from {}|the foreign ministry of {}|the president of {}|rebel commanders near {}|election monitors"
        "|the coalition cabinet|peacekeepers in {}|border guards|opposition lawmakers|the prime minister of {}"
        "|aid convoys bound for {}|the interim council of {}|tribal elders|a delegation from {}|the constitutional court"
        "|striking dock crews in {}|the exiled governor of {}|human rights observers|the bishop of {}|refugee families",
        "did": "signed|rejected|postponed|demanded|condemned|negotiated|violated|ratified|denounced|welcomed|suspended"
        "|prolonged|called for|walked out over|reopened talks on|pleaded for|warned against|broke off|voted down|mediated",
        "what": "a ceasefire|the border treaty|an arms embargo|the hostage exchange|emergency rule|the peace accord"
        "|a disputed ballot|fresh sanctions|the prisoner release|a grain corridor|the referendum|diplomatic ties"
        "|an extradition request|the curfew|a truce along the river|the amnesty bill|visa quotas|the evacuation order",
        "where": "in the capital of {}|at the embassy|across the northern provinces|before the summit|after clashes in {}"
        "|amid street protests|under foreign pressure|near the {} frontier|in the mountain valleys|at the refugee camp",
    },
    "Sports": {
        "who": "the {} rovers|striker {}|goalkeeper {}|the {} hornets|coach {}|the relay squad|top seed {}"
        "|the visiting side|sprinter {}|the {} harriers|a teenage gymnast|captain {}|the defending champions"
        "|pitcher {}|the reserve keeper|the {} oarsmen|swimmer {}|the cycling leader|midfielder {}|the rookie quarterback",
        "did": "won|lost|dominated|drew|forfeited|rescued|shrugged off injury in|sealed|squandered|equalised in|clinched"
        "|sat out|bowed out of|stormed through|rallied in|scored twice in|was sent off in|set a record in|stumbled in",
        "what": "the semi final|a penalty shootout|the opening set|the derby|the playoff round|extra innings|the relay"
        "|the title bout|a home fixture|the final lap|the qualifying heat|the league cup|a tie break|the marathon"
        "|the regatta|the second half|a friendly match|the decathlon|the mountain stage|an away game",
        "where": "at {} stadium|before a sold out crowd|on wet turf|under the floodlights|in front of home fans"
        "|on the indoor track|at the {} arena|in stoppage time|on the clay courts|at the winter games in {}",
    },
    "Business": {
        "who": "shares of {} holdings|the {} bank|retailer {}|bond traders|the central bank governor|{} foods"
        "|analysts at {} capital|the steel maker|minority shareholders|insurer {}|the {} airline|auditors"
        "|the budget committee of {} motors|hedge funds|the chief executive of {}|wholesale grocers|{} energy"
        "|mortgage lenders|the pension fund|currency dealers",
        "did": "posted|cut|raised|missed|hedged against|wrote off|refinanced|outbid rivals for|trimmed|profited from"
        "|reported|slashed|lifted|priced in|shed jobs despite|recovered from|braced for|announced|underwrote|downgraded",
        "what": "quarterly earnings|the dividend|a hostile takeover|its profit forecast|the merger terms|interest costs"
        "|crude futures|a bankruptcy filing|the share buyback|trade deficits|retail sales|the bond issue|wage inflation"
        "|a credit rating|the initial offering|operating margins|the tax rebate|freight rates|factory orders",
        "where": "in early trading|on the {} exchange|after the closing bell|amid weak demand|for the fiscal year"
        "|on rising import prices|in a filing to regulators|ahead of the audit|at the {} plant|on heavy volume",
    },
    "Sci/Tech": {
        "who": "researchers at {}|the {} telescope|software maker {}|geneticists|the lunar probe|chip designer {}"
        "|engineers from {} labs|a robotics startup|the open source project|astronomers|the {} satellite"
        "|browser developers|marine biologists|the search engine {}|a security firm|physicists at {}|handset maker {}"
        "|the rover team|network operators|the antivirus vendor {}",
        "did": "unveiled|patched|launched|decoded|simulated|discovered|upgraded|encrypted|sequenced|debugged|photographed"
        "|cloned|licensed|tested|archived|benchmarked|released a beta of|published data on|traced a flaw to|demonstrated",
        "what": "a quantum sensor|the wireless standard|a browser exploit|the fossil genome|an operating system"
        "|dark matter maps|the broadband chip|a spam filter|the plasma engine|a video codec|climate models"
        "|the file sharing protocol|a stem cell atlas|the asteroid sample|a handheld console|laser optics"
        "|the voice interface|a storage cluster|the coral survey|an encryption key",
        "where": "in orbit|at the {} observatory|for desktop users|on the server platform|in the clean room"
        "|over the mobile network|beneath the seabed|in a peer reviewed journal|at the developer forum in {}|via download",
    },
}
# Words that are independent of the class.
KICKERS = "Briefing|Update|Morning report|Late edition|In short|Dispatch|Wire|Roundup|Bulletin|Notebook|Review|Digest"
OPENERS = (
    "On Monday|On Tuesday|On Wednesday|On Thursday|On Friday|Over the weekend|Late last night|Earlier this week|At noon"
    "|Meanwhile|According to {}|Reports from {} say that|A spokesman said|Witnesses said|In a statement|By most accounts"
)
ASIDES = (
    "few details were given|the news was first carried by the {} gazette|nobody answered calls to the office in {}"
    "|more is expected before the end of the month|{} and {} declined to comment|a full account appears on page seven"
    "|reaction was mixed|several people who asked not to be named gave a different story|it had been rumoured for weeks"
    "|it was the third such case this year|a decision is due shortly|observers in {} and {} were not surprised"
    "|copies of the letter were seen by this paper|the weather in {} played its part|{} had foreseen much of this in spring"
    "|the cost is put at nine million|a crowd gathered outside the hall in {}|both sides claimed to have the better of it"
    "|the last word will be with {}|no date has been set|what comes next is anybody's guess|the file now goes to {}"
)
MANNERS = (
    "quietly|again|at last|in haste|as planned|without comment|for a second time|unexpectedly|on short notice|after delays"
    "|once more|in full view|to general relief|with some reluctance|by a narrow margin|despite earlier doubts"
)
# A name is one beginning and one end: thousands of rare words, which a tokenizer has to split.
NAME_HEADS = (
    "Ar Bal Bren Cal Car Dal Dor Dra El Fal Fen Gar Gil Hal Har Ist Jor Kal Kes Kor Lam Lor Mal Mar Mor Nal Nor Ol Or"
    " Pal Per Quil Ral Ros Sal Sel Sor Tal Tam Tor Ul Ur Val Var Vel Wen Wil Yar Yor Zan Zel Zor"
).split()
NAME_TAILS = (
    "ado aka amir anda anov aro aski avel bach bourne bridge burn by combe dale dorf eda elli enko era esh field ford"
    " gard gate grad ham holm ian ica ides ikov ima ingen ister ita ko lund mere mond mouth nik oba olis omi ona oro os"
    " ova own ridge rath sk stad stead stone thal ton uk ula umba uno vale ville well wick worth yani"
).split()
NAMES: Words = np.array([head + tail for head in NAME_HEADS for tail in NAME_TAILS], dtype=object)


@dataclass(frozen=True)
class Articles:
    """Generated articles with their labels, also before noise was added, and the topics of their bodies."""

    texts: list[str]
    labels: Topics
    clean_labels: Topics
    body_topics: Topics


def ceilings(noise: float, order_share: float) -> tuple[float, float]:
    """Expected test accuracy of the best model that uses word order, and of the best one that does not.

    A share `noise` of the labels is redrawn from all classes, so the answer of a perfect model agrees with the label
    with probability `1 - noise + noise / len(TOPICS)`. A share `order_share` of the articles has different topics in
    title and body; a model without order knows the pair but not which comes first: without noise it is right on half.
    """
    chance = noise / len(TOPICS)
    aware = 1 - noise + chance
    return aware, (1 - order_share) * aware + order_share * ((1 - noise) / 2 + chance)


def generate(size: int, noise: float, order_share: float, rng: np.random.Generator) -> Articles:
    """Generate `size` articles from the state of `rng`; for `noise` and `order_share` see `ceilings`."""
    num_classes = len(TOPICS)
    title_topic = rng.permutation(np.arange(size) % num_classes)
    other = (title_topic + rng.integers(1, num_classes, size)) % num_classes
    body_topic = np.where(_exact_share(size, order_share, rng), other, title_topic)

    title, body = _clauses(title_topic, rng), _clauses(body_topic, rng)
    kicker, opener, again = _draw(KICKERS, size, rng), _draw(OPENERS, size, rng), _draw(OPENERS, size, rng)
    # One to five asides vary the lengths, independently of the class.
    asides = np.stack([_draw(ASIDES, size, rng) for _ in range(5)], axis=1)
    closing = np.array(
        ["; ".join(row[:n]) for row, n in zip(asides, rng.integers(1, 6, size), strict=True)], dtype=object
    )
    texts = kicker + ": " + title + ". " + opener + " " + body + ". " + again + " " + closing + "."

    redrawn = rng.integers(0, num_classes, size)
    labels = np.where(_exact_share(size, noise, rng), redrawn, title_topic)
    return Articles(texts.tolist(), labels, title_topic, body_topic)


@dataclass(frozen=True, kw_only=True)
class Headlines(Source):
    """The built-in corpus, generated from `corpus_seed` each time; nothing is downloaded.

    Args:
        topics: the labels of a document: None for the topic of its title, "all" for the one or two of its clauses.
    """

    train_size: int
    test_size: int
    noise: float
    order_share: float
    corpus_seed: Annotated[int, Ge(0)] = 0
    topics: Literal["all"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("noise", "order_share"):
            if not 0 <= getattr(self, key) <= 1:
                raise UserError(f"data.{key}={getattr(self, key)} is a share: give a number from 0 to 1")
        for key in ("train_size", "test_size"):
            if getattr(self, key) < 1:
                raise UserError(f"data.{key}={getattr(self, key)} must be at least 1")

    def load(self, splits: Collection[str] = SPLITS) -> Corpus:
        del splits  # both are always generated, as test continues the random stream of train
        rng = np.random.default_rng(self.corpus_seed)
        train, test = (generate(size, self.noise, self.order_share, rng) for size in (self.train_size, self.test_size))
        names = list(TOPICS)
        labels: tuple[Labels, ...] = train.labels, test.labels
        if self.topics == "all":
            both = (zip(part.labels, part.body_topics, strict=True) for part in (train, test))
            labels = tuple(multi_hot(topics, len(names)) for topics in both)
        of_train, of_test = (
            Split(part.texts, own, origin=Origin.of_one(f"headlines {name}", len(part.texts)))
            for name, part, own in zip(("train", "test"), (train, test), labels, strict=True)
        )
        if self.topics == "all":
            return Corpus(names, of_train, of_test)
        aware, blind = ceilings(self.noise, self.order_share)
        known = {"ceiling/order_aware": aware, "ceiling/order_blind": blind}
        return Corpus(names, of_train, of_test, ceilings=known)


def _exact_share(size: int, share: float, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """A random mask with exactly `round(size * share)` entries set."""
    return rng.permutation(size) < round(size * share)


def _clauses(topics: Topics, rng: np.random.Generator) -> Words:
    """A clause for each article, on its topic."""
    size = len(topics)
    clauses = np.empty(size, dtype=object)
    for topic, parts in enumerate(TOPICS.values()):
        of_topic = np.flatnonzero(topics == topic)
        who, did, what, where = (_draw(parts[part], len(of_topic), rng) for part in ("who", "did", "what", "where"))
        clauses[of_topic] = who + " " + did + " " + what + " " + where
    person, manner = rng.choice(NAMES, size), _draw(MANNERS, size, rng)
    return clauses + " " + manner + rng.choice(np.array([" with ", " and ", " for "], dtype=object), size) + person


def _draw(phrases: str, size: int, rng: np.random.Generator) -> Words:
    """`size` phrases from a list `a|b|c`, with a made-up name for each `{}`."""
    drawn = rng.choice(np.array(phrases.split("|"), dtype=object), size)
    names = rng.choice(NAMES, (size, 2))
    return np.array([phrase.format(*pair) for phrase, pair in zip(drawn, names, strict=True)], dtype=object)
