"""The things of the stories: what a hero wishes for, carries, needs at an obstacle, and eats."""

from collections import defaultdict
from dataclasses import dataclass

from llm_from_scratch.tales.choices import Table, Word, rows, words


@dataclass(frozen=True)
class Thing:
    """A thing to wish for.

    Args:
        text: the first mention, with the indefinite article.
        the: every later mention.
        purpose: what the hero wants it for.
        ending: what comes of it.
    """

    text: str
    the: str
    purpose: str
    ending: str


@dataclass(frozen=True)
class Tool:
    """A thing that a hero carries, and that opens the way past some obstacles."""

    text: str
    the: str


@dataclass(frozen=True)
class Obstacle:
    """What stands in the way, the tool that helps, and what is done with it."""

    text: str
    tool: str
    use: str


@dataclass(frozen=True)
class Food:
    """Something to eat that can be counted: "apples", and one of them."""

    text: str
    one: str


def _things(text: str) -> list[Thing]:
    return [Thing(text, f"the {noun}", purpose, ending) for text, noun, purpose, ending in rows(text)]


# first mention | noun | purpose | ending
THINGS = Table("thing", "thing", _things("""
    a silver bell | bell | to call the goats home | every goat came home at dusk without being called twice
    a golden apple | apple | to plant in the garden | a tree grew by the door that bore gold in every month but March
    a talking book | book | to read aloud from in winter | the long evenings were never long again
    a lamp without oil | lamp | to see by in winter | no traveller ever missed the house in the dark
    a red cloak | cloak | to keep out the north wind | the north wind blew past the house and bothered somebody else
    a magic kettle | kettle | to make tea for all the neighbours | there was tea for everyone, and nobody quarrelled before noon
    a blue feather | feather | to write letters with | the letters were so beautiful that even the king answered them
    a brass key | key | to open the locked room at home | the locked room was opened, and behind it lay a view of the sea
    a fiddle with one string | fiddle | to play at weddings | no wedding was held for miles around without that music
    a crystal ball | ball | to see tomorrow's weather in | the washing was always dry and the hay was always in
    a wooden horse | horse | to ride to market on | the way to market took no longer than a yawn
    a pot of honey | honey | to sweeten the bitter winter | even the oldest people in the village smiled in February
    a pearl as big as a plum | pearl | to pay the landlord with | the landlord never knocked again except to say good morning
    a pocket watch | watch | to be on time for once | breakfast came before dinner and Monday came after Sunday
    a flying carpet | carpet | to visit the clouds | there was not a cloud in the land without a footprint on it
    a never-empty purse | purse | to buy shoes for everyone | the whole street walked about in new shoes
    a truthful mirror | mirror | to ask for advice | nobody in that house ever wore a foolish hat again
    a bag of wind | wind | to drive the old mill | the sails turned day and night, and bread was cheap
    a goose with a talent for pancakes | goose | to feed the orphans | no orphan went to bed hungry, though some went to bed sticky
    a coat of many buttons | coat | to go dancing in | there was dancing every Saturday until the roof shook
    a snow-white foal | foal | to pull the milk cart | the milk came early and the children rode to school
    a self-stirring spoon | spoon | to help with the soup | the soup never burned, and it tasted of every season
    a drum of thunder | drum | to frighten the robbers away | the robbers moved to another kingdom and became bakers
    a map of the whole world | map | to find out what lies behind the hills | nobody asked any more what lies behind the hills
    a ring of invisible gold | ring | to marry in | a wedding was held, and the guests admired what they could not see
    a rope of moonlight | moonlight | to climb down into dreams | bad dreams were tied up and led away before breakfast
    a bottle of sunshine | sunshine | to warm the cold kitchen | the kitchen was so warm that strawberries grew on the shelf
    a singing stone | stone | to keep the baby quiet | the baby slept, and grew up to be a singer
    a broom with a good memory | broom | to sweep the path to the village | the path was so clean that the mayor walked it for pleasure
    a seed from paradise | seed | to sow in the yard | such a flower grew there that the bees came from abroad
    a copper crown | crown | to wear on birthdays | every birthday was a coronation, with cake
    a harp of driftwood | harp | to soothe the stormy sea | the fishermen all came home, and they brought herring
    a well-balanced cup | cup | to carry water uphill | the highest field was green even in August
    a white rose | rose | to lay on a grave | the grave was never bare again, not even in the snow
    a storytelling bird | bird | to listen to at bedtime | children came from seven villages to hear what it told
    a needle of light | needle | to mend torn sails | the ships went out whole and came back full
    a chest of letters | chest | to learn who the family had been | cousins turned up in every town, and all of them came to tea
    a whistle of bone | whistle | to train the unruly dog | the dog obeyed at once and was made a constable
    a jar of fireflies | jar | to light up the stairs | nobody fell down those stairs again except on purpose
    a thinking hat | hat | to pass the examination | the examination was passed, and the hat received the prize
    an everlasting loaf | loaf | to share with beggars | the beggars grew so round that they gave up begging
    a left silver shoe | shoe | to go with the right one | the two shoes stood side by side, and a dancer was found for them
    a telescope of glass | telescope | to look for a lost star | the lost star was found and promised not to wander
    a garden gate of iron | gate | to keep the deer from the beans | the deer read the sign, nodded and ate elsewhere
    a ladder of straw | ladder | to reach the top cherries | the top cherries were picked, and they were the sweetest
    a comb of amber | comb | to tame a wild head of hair | the hair lay smooth, and three lost pencils were found in it
    a cradle of willow | cradle | to rock the twins in | the twins slept through, and so at last did everyone else
    a violet umbrella | umbrella | to walk dry-footed through April | it was April for thirty days, and nobody caught a cold
"""), zipf=True)  # fmt: skip
# first mention | noun
TOOLS = Table("tool", "thing", [Tool(text, f"the {noun}") for text, noun in rows("""
    a coil of rope | rope
    a stub of candle | candle
    a bent nail | nail
    an iron hook | hook
    a ball of yarn | yarn
    a small saw | saw
    a pinch of pepper | pepper
    a tin whistle | tin whistle
    a wooden plank | plank
    a broken mirror | broken mirror
    a bottle of oil | oil
    a hammer | hammer
    a sharp knife | knife
    a fishing line | fishing line
    a wool blanket | blanket
    a handful of salt | salt
    a deck of cards | deck of cards
    a copper coin | coin
    a long pole | pole
    a bar of soap | soap
    a pot of glue | glue
    a paper kite | kite
    a shovel | shovel
    a ham bone | ham bone
""")])  # fmt: skip
# obstacle | tool | use
OBSTACLES: dict[str, list[Obstacle]] = defaultdict(list)
for _text, _tool, _use in rows("""
    the bridge had been washed away | rope | swung across from a willow
    the castle wall had no door at all | rope | climbed up hand over hand
    the way went through a tunnel without any light | candle | walked on without stumbling
    a bat as big as a calf barred the cave | candle | dazzled it until it fluttered off
    a padlock hung on the garden door | nail | picked the padlock in a minute
    the wheel of the only cart was loose | nail | fastened it so that the cart could roll on
    a boat was drifting away from the bank | hook | pulled it back to the shore
    the trapdoor was too heavy to lift | hook | heaved it up by the ring
    a maze of hedges stood there, taller than a house | yarn | marked every turn of the way
    a playful kitten the size of a horse would let nobody by | yarn | sent it rolling down the hill, with the kitten behind
    a fallen oak lay across the road | saw | cut a gap through the trunk
    a cage had dropped down from above | saw | cut through the bars before supper
    two watchmen stood there shoulder to shoulder | pepper | made both of them sneeze until they wept
    a bull with lowered horns came nearer and nearer | pepper | tossed some of it into the air, and the bull ran for the pond
    a hundred rats sat on the steps | tin whistle | played a march, and the rats marched away
    a snake lay coiled in the middle of the path | tin whistle | played so sweetly that the snake began to dance
    a swamp bubbled on both sides and in front | plank | laid it from one tuft of grass to the next
    a crack in the earth yawned before the threshold | plank | walked over it with closed eyes
    a basilisk sat there, whose look turns people to stone | broken mirror | showed the monster its own face
    a sentry stood on the tower and watched the road | broken mirror | threw the sunlight into his eyes
    a rusty gate refused to move | oil | made the hinges run like butter
    a stone golem blocked the way, creaking in all its joints | oil | eased its knees, and it stepped aside with a bow
    the windows were boarded up with oak | hammer | knocked the boards off one after another
    a sheet of ice had closed the stream | hammer | broke a channel from bank to bank
    a net dropped out of a tree | knife | got free again with four cuts
    vines had grown over the entrance | knife | cleared them away like cobwebs
    a hungry pike guarded the crossing | fishing line | kept the pike busy until the other side was reached
    a key lay glittering at the bottom of a shaft | fishing line | drew the key up into the daylight
    a wall of nettles stood in front of the steps | blanket | went through without a single sting
    a bed of glowing coals had been spread over the path | blanket | smothered the glow with it
    the mountain pass was covered with ice | salt | sprinkled every step until it was safe
    an army of slugs came over the hill | salt | drew a white line that no slug would cross
    three bored gamblers held the bridge | deck of cards | dealt them such a good hand that they forgot to look up
    a draught slammed every door that was opened | deck of cards | wedged the doors one by one
    a ferryman held out his hand and would not row | coin | paid the fare to the other bank
    the scales of a stone judge stood askew | coin | laid it in the empty pan, and the barrier rose
    a ditch full of frogs lay in between | pole | vaulted over it in one leap
    a sleeping bear filled the doorway | pole | lifted the latch from a safe distance
    a narrow pipe was the only way in | soap | slid through it like an eel
    a tar pit had caught both feet | soap | slipped free, boots and all
    the stairs fell to pieces at a touch | glue | stuck them together step by step
    an angry wasp nest hung over the gate | glue | sealed its little door
    a canyon opened, a mile wide | kite | flew over on the evening breeze
    a scornful eagle would let no one pass who could not fly | kite | let it climb until the eagle applauded
    a landslide had buried the road | shovel | dug steadily until the road was clear
    a fence reached up to the clouds | shovel | went under it instead of over it
    a dog with three heads growled | ham bone | gave all three of them something to do
    wolves were circling closer and closer | ham bone | threw it far into the bushes, and the wolves went after it
"""):  # fmt: skip
    OBSTACLES[f"the {_tool}"].append(Obstacle(_text, f"the {_tool}", _use))
BAGS = words("bag", "thing", """
    bag
    basket
    knapsack
    pack
    rucksack
    hatbox
    satchel
    wheelbarrow
    sack
    handcart
    suitcase
    bundle
""")  # fmt: skip
CLOTHES = words("clothes", "thing", """
    green hat
    woollen cap
    straw hat
    Sunday boots
    patched jacket
    yellow scarf
    raincoat
    wooden clogs
    best gloves
    striped stockings
    leather belt
    sheepskin
    Sunday collar
    spectacles
    fur cap
    travelling cape
""")  # fmt: skip
FOODS = Table("food", "thing", [Food(*row) for row in rows("""
    apples | apple
    plums | plum
    rolls | roll
    boiled eggs | egg
    pears | pear
    buns | bun
    carrots | carrot
    dumplings | dumpling
    dried figs | fig
    cheeses | cheese
    sausages | sausage
    gingerbread hearts | gingerbread heart
    radishes | radish
    honey cakes | honey cake
    pretzels | pretzel
    walnuts | walnut
""")])  # fmt: skip
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COUNTS = Table("count", "number", [Word(word) for word in NUMBERS[2:]])
TIMES = Table("times", "number", [Word(word) for word in NUMBERS[1:7]])
