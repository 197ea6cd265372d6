"""The words of the small town: every list a scene draws from.

A proper name is always a *pair* of words (first name and surname, adjective and noun, street name
and kind of street); the pair decides to which split it belongs, see `town.split_of`. Single words
are shared by all splits, so that an unseen name is made of familiar words.
"""

# ruff: noqa: SIM905 - a list of two hundred quoted names hides the names

from __future__ import annotations

from typing import NamedTuple


class Verb(NamedTuple):
    """The five forms of an English verb."""

    base: str
    third: str
    past: str
    participle: str
    gerund: str


def _regular(base: str) -> Verb:
    """The forms of a regular verb, final consonants not doubled."""
    if base.endswith("e"):
        return Verb(base, base + "s", base + "d", base + "d", base[:-1] + "ing")
    if base.endswith("y") and base[-2] not in "aeiou":
        stem = base[:-1] + "ie"
        return Verb(base, stem + "s", stem + "d", stem + "d", base + "ing")
    third = base + ("es" if base.endswith(("sh", "ch", "s", "x")) else "s")
    return Verb(base, third, base + "ed", base + "ed", base + "ing")


def plural(noun: str) -> str:
    """The plural of one of `NOUNS` (all regular but for the endings below)."""
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("sh", "ch", "s", "x")) else "s")


def article(word: str) -> str:
    """`a` or `an`, by the first letter; no word here begins with a silent h or a spoken y."""
    return "an" if word[0] in "aeiou" else "a"


FEMALE = (
    "Ada Agnes Alice Amy Anna Bella Bertha Bridget Carol Cecily Clara Cora Daisy Dora Edith Ella "
    "Emma Esther Eva Fanny Flora Frances Gerda Grace Hannah Harriet Hazel Helen Ida Irene Iris "
    "Jane Janet Joan Judith Julia Kate Laura Leah Lena Lily Lucy Mabel Margaret Martha Mary "
    "Maud Molly Nancy Nell Nora Olive Paula Polly Rachel Rhoda Rosa Ruth Sally Sarah Selma Sofia "
    "Stella Susan Sylvia Tessa Thea Tilda Ursula Vera Viola Wanda Willa Winnie Zoe"
).split()

MALE = (
    "Adam Albert Alfred Andrew Arthur Basil Ben Bernard Carl Charles Clive Colin Cyril Daniel "
    "David Dennis Edgar Edmund Edward Emil Ernest Felix Frank Fred Gabriel George Gilbert Giles "
    "Gordon Harold Harry Henry Herbert Hugh Isaac Ivan Jack Jacob James Jasper John Jonas Joseph "
    "Karl Keith Kurt Lars Leo Leon Louis Luke Mark Martin Max Miles Nathan Neil Noah Oliver Oscar "
    "Otto Owen Paul Percy Peter Philip Ralph Robert Roger Rupert Samuel Simon Stephen Theo Thomas "
    "Tom Victor Walter Wilfred William"
).split()

SURNAMES = (
    "Abbot Archer Ashby Atwood Bailey Baines Barker Barlow Baxter Beck Bell Bennett Birch Bishop "
    "Blake Bolton Booth Bowen Bradley Brewer Briggs Brooks Buckley Burgess Burton Calder Carter "
    "Chandler Chapman Clarke Clifton Cole Collins Cooper Cox Craig Crane Cross Curtis Dale Dalton "
    "Davies Dawson Deacon Dixon Drake Draper Dudley Duncan Dyer Eaton Elliot Ellis Evans Farrell "
    "Fenton Finch Fisher Fleming Fletcher Foster Fowler Francis Frost Fuller Gibson Goddard "
    "Goodwin Grant Graves Griffin Hale Hardy Harper Harris Hart Harvey Hawkins Hayes Heath Hicks "
    "Holt Hooper Howell Hudson Hughes Hunter Ingram Irwin Jarvis Jenkins Jensen Johnson Jordan "
    "Keller Kemp Kent Kerr Knight Lambert Lane Larkin Lawson Leech Lester Lewis Lindsay Lloyd "
    "Lockwood Lowe Lucas Lyons Mason Maxwell Mercer Merton Miller Mills Mitchell Moore Morgan "
    "Morris Murphy Nash Naylor Nelson Newman Nicholls Norris North Norton Oakley Osborne Page "
    "Palmer Parker Parsons Paxton Payne Pearce Perkins Perry Phelps Pickford Plumb Porter Potter "
    "Powell Preston Price Quinn Ramsey Randall Reed Reeves Reynolds Rhodes Richards Riley Roberts "
    "Robson Rogers Rowe Russell Ryder Sanders Sawyer Saxton Sewell Sharp Shaw Shepherd Skinner "
    "Slater Spencer Stafford Stanton Steele Stevens Stokes Stone Sutton Swift Tanner Taylor "
    "Thorne Thornton Tucker Turner Tyler Underhill Vaughn Vincent Wade Walker Wallace Walsh Ward "
    "Warner Warren Waters Watson Weaver Webb Webster Wells Weston Wheeler Whitby Wilkins Winter "
    "Woodward Wright Yates York Young"
).split()

ADJECTIVES = (
    "amber ancient blue brass bright broken brown cheap clean copper cracked curious dark dusty "
    "elegant empty enormous expensive faded fancy fine foreign golden green grey heavy hollow "
    "huge iron ivory large leather light little long narrow neat new odd old orange painted pale "
    "patched pink plain polished pretty purple red rough round rusty scratched shabby shiny short "
    "silver simple small smooth solid spare square stained striped strong sturdy tall thick thin "
    "tiny torn ugly violet warm white wide wooden worn yellow"
).split()

NOUNS = (
    "anchor apron axe bag barrel basin basket bell belt bench blanket boot bottle bowl box "
    "bracelet brick broom brush bucket button cage camera candle cap carpet cart chain chair chest "
    "clock cloak coat comb compass cradle crate cup curtain cushion desk dish doll drawer dress "
    "drum fan feather fiddle flag flask flute fork frame funnel glass globe glove hammer harp hat "
    "helmet hook horn jacket jar jug kettle key kite knife ladder ladle lamp lantern lid lock "
    "magnet map mask medal mirror mitten mug nail necklace needle net oar pail pan parcel pen "
    "pencil photograph picture pillow pipe plate pot puppet purse quilt rake ribbon ring rope rug "
    "sack saddle sandal saw scale scarf shawl sheet shirt shoe shovel sieve sled slipper spade "
    "spoon stamp statue stick stool string suitcase sword table tent thimble torch towel toy tray "
    "trumpet trunk tub umbrella vase veil violin wallet watch wheel whip whistle wig wrench"
).split()

IRREGULAR_PLURALS = {"knife": "knives", "scarf": "scarves"}

PLACES = (
    "attic bakery barn basement bathhouse bedroom boathouse brewery cabin cellar chapel church "
    "cinema classroom corridor cottage courtyard dairy dungeon factory farmhouse forge garage "
    "garden gallery granary greenhouse hall harbour hotel inn kitchen laundry library loft lounge "
    "market meadow mill museum nursery office orchard palace pantry park parlour pavilion "
    "pharmacy porch prison quarry school shed smithy stable studio tavern theatre tower vineyard "
    "warehouse workshop yard"
).split()

STREETS = (
    "Abbey Acorn Alder Apple Barley Beech Bridge Castle Cedar Cherry Clover College Corn Crown "
    "Dove Eagle Elm Falcon Ferry Forest Fountain Fox Gate Hawthorn Heron Holly Ivy King Lark Lime "
    "Linden Maple Meadow Mill Monk Nettle Oak Otter Pear Pine Plum Poplar Prince Queen Raven "
    "River Robin Rose Saddler Salt Sparrow Spring Swan Thistle Vine Water Willow Wolf"
).split()
STREET_KINDS = "Alley Avenue Court Hill Lane Road Row Square Street Walk".split()

TOWNS = (
    "Alderton Barford Bexley Brampton Carlow Clayton Cromer Denby Easton Fairley Garston Halton "
    "Hinckley Ilford Kelby Kirkham Langford Linton Marlow Melton Newby Oakham Penley Ripley "
    "Selby Stanley Thirsk Upton Wexford Whitley"
).split()
TOWN_KINDS = "Great High Little Lower Market Middle New North Old South Upper West".split()

TRADES = (
    "baker barber blacksmith bookseller butcher carpenter clerk cobbler cook doctor driver farmer "
    "fisherman gardener glazier grocer hatter jeweller judge mason miner musician nurse painter "
    "plumber postman potter printer sailor singer smith tailor teacher waiter weaver writer"
).split()

SHOPS = (
    "bank bookshop bakehouse barbershop butchery cafe chandlery creamery dispensary drapery "
    "fishery florist foundry grocery gymnasium hatshop ironmonger jewellery pottery press saddlery "
    "sawmill surgery tannery tailoring tearoom toyshop winery"
).split()

HANDLING = (
    *(
        _regular(word)
        for word in (
            "admire borrow carry clean collect cover deliver examine fetch finish follow lift "
            "measure mend move open order pack paint photograph polish pull push repair "
            "return test touch wash watch"
        ).split()
    ),
    Verb("break", "breaks", "broke", "broken", "breaking"),
    Verb("bring", "brings", "brought", "brought", "bringing"),
    Verb("buy", "buys", "bought", "bought", "buying"),
    Verb("choose", "chooses", "chose", "chosen", "choosing"),
    Verb("draw", "draws", "drew", "drawn", "drawing"),
    Verb("find", "finds", "found", "found", "finding"),
    Verb("forget", "forgets", "forgot", "forgotten", "forgetting"),
    Verb("hide", "hides", "hid", "hidden", "hiding"),
    Verb("hold", "holds", "held", "held", "holding"),
    Verb("lend", "lends", "lent", "lent", "lending"),
    Verb("lose", "loses", "lost", "lost", "losing"),
    Verb("sell", "sells", "sold", "sold", "selling"),
    Verb("steal", "steals", "stole", "stolen", "stealing"),
    Verb("take", "takes", "took", "taken", "taking"),
    Verb("throw", "throws", "threw", "thrown", "throwing"),
    Verb("wear", "wears", "wore", "worn", "wearing"),
)

STATES = "cold damp dangerous dirty dry famous hidden lost missing ready safe wet".split()
NUMBERS = "two three four five six seven eight nine ten eleven twelve".split()
