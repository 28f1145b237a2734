"""The people and animals of the stories: names, fears, helpers, guards, riddles, promises."""

from dataclasses import dataclass

from llm_from_scratch.tales.choices import Table, Word, rows, words


@dataclass(frozen=True)
class Person:
    """A character: the noun of its first mention, the later mention, its pronoun."""

    text: str
    the: str
    pronoun: str


@dataclass(frozen=True)
class Pair:
    """A text, and the later text that follows from it."""

    text: str
    follows: str


def _persons(text: str) -> list[Person]:
    return [Person(row[0], row[1], row[2]) for row in rows(text)]


def _names(name: str, text: str) -> Table[Word]:
    return Table(name, "name", [Word(one) for one in text.split()], zipf=True)


def _pairs(name: str, kind: str, text: str) -> Table[Pair]:
    return Table(name, kind, [Pair(*row) for row in rows(text)])


NAMES = {
    "he": _names("name", """
        Peter Jonas Martin Oscar Felix Tobias Emil Hugo Anton Konrad Lewis Albert Simon Edmund Casper Matthew
        Otto Rupert Gregory Nils Bertram Walter Hector Barnaby Cuthbert Gabriel Humphrey Ivan Jasper Lorenz Milo
        Norbert Osbert Percy Quentin Roderick Silas Theodor Ulrich Valentin Wilfred Zachary Ambrose Basil
        Clement Dominic Ephraim Florian Giles Horatio Ignatius Julian Kilian Leopold Marius Alfred Benedict
        Cornelius Dietrich Eustace Frederick Gottfried Henry Isidor Jerome Kurt Lambert Maximilian Nathaniel
        Oswald Philip Randolph Stephen Timothy Vincent Neville Orlando Pascal Reuben Sebastian
    """),
    "she": _names("name", """
        Anna Greta Clara Lisa Marie Roswitha Johanna Emma Sophie Agnes Martha Ida Helen Lucy Paula Nora Bertha
        Flora Matilda Hedwig Judith Katrin Lena Mina Odile Philippa Ruth Selma Thea Ursula Vera Wilma Ada
        Beatrice Cecily Dorothy Edith Frieda Gwendolyn Hazel Irene Josephine Lavinia Mabel Nell Ottilie Prudence
        Rosalind Susanna Tabitha Viola Winifred Yvette Zelda Adelaide Amelia Bridget Caroline Daphne Elsbeth
        Fanny Genevieve Harriet Isabel Janet Kunigunde Leonora Margaret Natalie Olga Penelope Regina Sibyl
        Theresa Veronica Blanche Cordelia Della Eleanor Felicity
    """),
}  # fmt: skip
TRAITS = words("trait", "character", """
    a poor
    a young
    a clever
    an honest
    a cheerful
    a curious
    a lonely
    a quiet
    a patient
    a stubborn
    a kind
    a shy
    a merry
    a brave
    a thoughtful
    a barefoot
    a freckled
    an absent-minded
    a very tall
    a rather small
    a red-haired
    a near-sighted
    an orphaned
    a talkative
    a hard-working
    a hungry
    a sleepy
    a proud
    a gentle
    a restless
    a penniless
    a good-natured
    a careful
    an impatient
    a sharp-eyed
    a left-handed
    a well-mannered
    a daring
    a homesick
    a dreamy
""", zipf=True)  # fmt: skip
KINDS = Table("kind", "character", _persons("""
    girl | the girl | she
    boy | the boy | he
    miller's daughter | the miller's daughter | she
    tailor | the tailor | he
    shepherd | the shepherd | he
    goose girl | the goose girl | she
    woodcutter's son | the woodcutter's son | he
    seamstress | the seamstress | she
    fisherman | the fisherman | he
    widow | the widow | she
    cobbler | the cobbler | he
    baker's daughter | the baker's daughter | she
    soldier | the soldier | he
    dairymaid | the dairymaid | she
    blacksmith's son | the blacksmith's son | he
    princess | the princess | she
    gardener | the gardener | he
    beekeeper | the beekeeper | she
    clockmaker | the clockmaker | he
    weaver | the weaver | she
    king's son | the king's son | he
    washerwoman | the washerwoman | she
    charcoal burner | the charcoal burner | he
    ferryman's daughter | the ferryman's daughter | she
    tinker | the tinker | he
    spinner | the spinner | she
    fiddler | the fiddler | he
    queen without a country | the queen | she
    potter | the potter | he
    bell ringer's niece | the bell ringer's niece | she
    chimney sweep | the chimney sweep | he
    basket maker | the basket maker | she
    lamplighter | the lamplighter | he
    innkeeper's sister | the innkeeper's sister | she
    drummer | the drummer | he
    candle maker | the candle maker | she
    schoolmaster | the schoolmaster | he
    rope dancer | the rope dancer | she
    king without a crown | the king | he
    lighthouse keeper's daughter | the lighthouse keeper's daughter | she
    hare | the hare | he
    hedgehog | the hedgehog | she
    fox | the fox | he
    field mouse | the field mouse | she
    bear cub | the bear cub | he
    hen | the hen | she
    donkey | the donkey | he
    duckling | the duckling | she
"""), zipf=True)  # fmt: skip
DAYS = words("days", "detail", """
    wishes still counted for something
    the moon could be bought for a penny
    bears could read and foxes could not
    every river had a name for each day of the week
    the hens still laid blue eggs
    kings swept their own stairs
    the stars hung low enough to be dusted
    nobody had yet invented the umbrella
    a loaf of bread cost a song
    the winters were longer and the beds were wider
    owls gave lessons in arithmetic
    giants were no rarer than cows
    the wind asked before it came in
    a cat might still become a mayor
    the mountains were only half finished
    it rained soup on Sundays
    people kept their shadows in cupboards
    stones could talk but seldom wanted to
    every village had its own dragon
    the sea came up to the church door
    letters were carried by storks
    clocks ran slower than they do now
    the trees still walked about at night
    you could hear the grass growing
""")  # fmt: skip
HABITS = words("habit", "detail", """
    could whistle like a blackbird
    knew the names of all the stars but two
    talked to the chimney when nobody else was in
    never went to bed without counting the spoons
    slept with both windows open, even in January
    could stand on one leg for an hour
    owned nothing but a bench, a bowl and a good temper
    sang so loudly that the plaster fell from the ceiling
    had never in all those years told a lie
    liked porridge, thunder and long words
    laughed at every joke before it was finished
    got up earlier than the rooster
    had once shaken hands with a bishop
    kept a beetle in a matchbox and called it General
    wrote a letter every evening and burned it every morning
    could tell the time by smelling the air
    was always the first to arrive and the last to sit down
    knew a remedy for hiccups, and it worked
    gave half of every supper to the sparrows
    collected buttons that other people had lost
    had hair that no comb could master
    walked backwards on Tuesdays, to see more of the world
    could crack walnuts with two fingers
    bowed politely to every scarecrow
    had read the almanac from cover to cover, twice
    could imitate a rusty pump
    darned stockings with the finest stitches in the county
    argued with thunderclouds, and usually won
    wore a thimble as a lucky charm
    had an excellent memory for faces and none for birthdays
    kept a diary about the mice
    sneezed whenever somebody mentioned algebra
    never passed a puddle without saying hello
    recited poems to the potatoes
    was known far and wide for pickled cucumbers
    could juggle three turnips and a hymn book
""")  # fmt: skip
FEARS = words("fear", "detail", """
    geese
    thunder
    the dark
    spiders
    deep water
    the neighbour's rooster
    empty houses
    ladders
    big dogs
    the sound of church bells
    crows
    masks
    narrow bridges
    echoes
    moths
    frogs
    strangers with loud voices
    cellar stairs
    scarecrows
    swans
    fog
    tall hats
    the letter Q
    silence
""")  # fmt: skip
ELDERS = Table("elder", "character", _persons("""
    grandmother | grandmother | she
    grandfather | grandfather | he
    mother | mother | she
    father | father | he
    old aunt | aunt | she
    little brother | brother | he
    little sister | sister | she
    godmother | godmother | she
    old uncle | uncle | he
    old nurse | nurse | she
    neighbour the cheesemaker | neighbour | he
    godfather | godfather | he
"""))  # fmt: skip
FRIENDS = Table("friend", "character", _persons("""
    an old badger | the badger | he
    a young stork | the stork | she
    a grey heron | the heron | he
    a lame wolf | the wolf | he
    a freckled piglet | the piglet | she
    a toad as big as a loaf | the toad | she
    a squirrel with no tail | the squirrel | he
    a thin raven | the raven | he
    a white goat | the goat | she
    a beggar with a wooden leg | the beggar | he
    a nun on a tricycle | the nun | she
    an otter in a nightcap | the otter | he
    a mole with a lantern | the mole | he
    a lost lamb | the lamb | she
    a hunchbacked dwarf | the dwarf | he
    a snow goose | the snow goose | she
    a stag with golden antlers | the stag | he
    a dusty moth | the moth | she
    a lost queen bee | the bee | she
    an ant with a suitcase | the ant | he
    a weasel in a waistcoat | the weasel | he
    a peddler woman | the peddler woman | she
    a lizard the colour of moss | the lizard | she
    a blind owl | the owl | she
    a cricket with a cold | the cricket | he
    a tired camel | the camel | he
    a magpie with one feather | the magpie | she
    a wild boar | the boar | he
    a bewildered eel | the eel | he
    a nightingale | the nightingale | she
    a ghost in a torn sheet | the ghost | he
    a mermaid in a washtub | the mermaid | she
"""))  # fmt: skip
TROUBLES = _pairs("trouble", "action", """
    was caught in a bramble bush | bent the thorns aside
    had fallen into a ditch and could not get out | reached down a hand
    was shivering with cold | lit a small, cheerful fire
    had a splinter in one foot | drew out the splinter
    was crying bitterly over a broken plate | glued the plate with pine resin
    could not find the way home | pointed out the chimney in the distance
    was stuck fast between two stones | rolled one of the stones away
    had not slept for a week | sang a lullaby of nine verses
    was tangled in a fishing net | undid the knots one by one
    was quarrelling with an echo | explained what an echo is
    had lost a glass eye in the grass | searched the grass on hands and knees until it turned up
    was pinned under a fallen branch | lifted the branch
    had swallowed a cherry stone | knocked hard, and out flew the stone
    was being scolded by seven crows | chased the crows away
    could not reach the water to drink | brought water in two cupped hands
    had forgotten how to count past four | counted aloud until both could do it
    was too sad to speak | sat down alongside and waited
    had ink in both ears | wiped out the ink with a dock leaf
    wanted to post a letter but had no stamp | drew a stamp with a bit of charcoal
    was chained to a milestone | picked the lock with a straw
""")  # fmt: skip
SIGNALS = _pairs("signal", "action", """
    whistle | whistled
    clap | clapped
    stamp on the ground | stamped on the ground
    cough | coughed
    knock on wood | knocked on wood
    hoot like an owl | hooted like an owl
    sneeze | sneezed
    blow on a blade of grass | blew on a blade of grass
    say please | said please
    turn round | turned round
    tap on a stone | tapped on a stone
    wave a leaf | waved a leaf
""")  # fmt: skip
BARRIERS = _pairs("barrier", "action", """
    the gate was locked and as high as a house | opened it from the other side
    a lake without a boat stretched ahead | found a ford between the reeds
    the path split into a hundred paths | knew the right one by its smell
    a thicket of black thorns had grown across the road | bit a tunnel through it
    there was no door, only a wall | found the loose brick that moved the rest
    a pack of dogs guarded the last field | told the dogs a story until they fell silent
    a fog came down, as thick as wool | led the way with one steady voice
    the ground turned into a bog | laid a causeway of branches
    a toll keeper demanded a hundred gold coins | paid him with an answer to his oldest question
    the steps were made of ice | scattered ashes on every step
    the last door had a lock but no key | turned the lock with a fishbone
    an avalanche had buried the pass | dug a passage before noon
    the hill was as steep and smooth as an egg | let down a plait of ivy
    a sleeping bull filled the lane from hedge to hedge | tickled the bull until it rolled aside
    the signpost had been turned round | remembered how it used to stand
    a spell made every step go backwards | broke the spell by tying a shoelace
    a cliff rose straight out of the sand | pointed to a goat track behind the waterfall
    a drawbridge was up and its winch had rusted | lowered the chains link by link
    mirrors stood everywhere, and every road was double | breathed on the glass until only one road was left
    a tax collector had confiscated the road | unrolled it again while he was counting
    the river was in flood and carried whole barns along | built a raft from one of the barns
    a hundred suits of armour barred the hall | rattled until they took fright
    the trees would let nobody pass without a compliment | praised their bark and their bearing
    night had fallen in the middle of the day | lit the path with a jar of glow-worms
""")  # fmt: skip
GUARDS = Table("guard", "character", _persons("""
    a giant with a red beard | the giant | he
    a witch in a paper hat | the witch | she
    a dragon no longer than a sofa | the dragon | he
    an ogre with a toothache | the ogre | he
    a troll under a heap of blankets | the troll | he
    a sphinx of grey stone | the sphinx | she
    a griffin with moulting wings | the griffin | he
    a robber with three pistols | the robber | he
    a knight in rusty armour | the knight | he
    an old sorceress | the sorceress | she
    a serpent as thick as a barrel | the serpent | she
    a lion without a mane | the lion | he
    a customs officer with a large stamp | the officer | he
    a giantess with a knitting needle | the giantess | she
    a dripping water sprite | the sprite | she
    a cat with the face of a judge | the cat | she
    a hunter in green | the hunter | he
    a goblin with silver teeth | the goblin | he
    an enchantress with cold blue eyes | the enchantress | she
    a wild man covered in leaves | the wild man | he
"""))  # fmt: skip
RIDDLES = _pairs("riddle", "detail", """
    What has teeth and cannot bite? | A comb
    What runs all day and never leaves its bed? | A river
    What grows the more you take away from it? | A hole
    What is full of holes and still holds water? | A sponge
    What goes up and never comes down? | Age
    What can you break without touching it? | A promise
    Who speaks every language and has no tongue? | An echo
    What has one eye and cannot see? | A needle
    What falls every night and is never hurt? | Darkness
    What gets wet while it dries? | A towel
    What has hands and cannot wave? | A clock
    What lies at the bottom of the sea and trembles? | A nervous crab
    What belongs to you and is used mostly by others? | A name
    What has a neck and no head? | A bottle
    What follows you by day and leaves you at night? | A shadow
    What dies when it drinks? | A fire
    What has leaves and is not a tree? | A book
    What weighs nothing and cannot be held for long? | Breath
    What house has neither door nor window? | An egg
    What is lighter than a feather and frightens kings? | A whisper
    What has a bed and never sleeps, a mouth and never eats? | A stream
    What is bought by the yard and worn by the foot? | Carpet
    Who can shave all day and keep his beard? | A barber
    What travels round the world and stays in its corner? | A postage stamp
    What has cities without houses and forests without trees? | An atlas
    What is broken before it is used? | A nut
    What comes once in a minute and twice in a moment? | The letter M
    What gets sharper the more it is used? | The mind
""")  # fmt: skip
PROMISES = _pairs("promise", "action", """
    to bring back a white pebble | took a white pebble out of one shoe
    to be home before the first snow | pointed to the first snowflake, which was just coming down
    to learn one new song on the way | sang the new song from beginning to end
    to count the bridges | said that there were nine bridges, and one more in the water
    to bring a leaf from every kind of tree | laid a bundle of leaves on the table
    to greet the sea | brought greetings from the sea, and a little salt
    never to speak to strangers for longer than an hour | swore that no stranger had been given a minute more
    to remember the way, so that it could be told | told the whole way, bend by bend
    to find out why cows are never in a hurry | explained at last why cows are never in a hurry
    to bring home a bottle of fog | uncorked the bottle, and the kitchen was white with fog
    to wear the warm socks | pulled off two warm socks with holes in them
    to say thank you to everyone | said thank you once more, this time across the table
    to return the borrowed pencil | put the pencil back where it belonged
    to think of home each evening | told of every evening, and there was home in each of them
    to come back taller | stood against the doorpost, taller by a finger
    to look after both gloves | held up two gloves, a left one and a right one
    to bring news of the stolen weathercock | reported that the weathercock sat on another roof and was well
    to pick the first violet | handed over a violet that still smelled of spring
    to write down every dream | read the dreams aloud, and they took till midnight
    to catch a falling star, or at least to try | told of four falling stars, all of which had got away
    to save the last crumb of the cake | shook the last crumb out of a pocket, and it was divided in two
    to forgive the neighbour's goose | went next door at once and forgave the goose
    to ask the moon about its cough | passed on that the moon was feeling better
    to keep dry in the rain | turned round once, as dry as a biscuit
    to come home by the front door | knocked, for the first time ever, at the front door
    to lose nothing but time | turned out every pocket: nothing was lost but time
    to bring a good joke | told the joke, and the whole house shook
    to pay back three pennies | paid back three pennies, and one for the waiting
    to find the end of the rainbow, and leave it there | described the end of the rainbow, which was still where it belonged
    to feed the first hungry bird | introduced a sparrow, which was no longer hungry
    to stay no longer than the cherries were ripe | helped to pick the last of the cherries
    to learn how bread is baked in other countries | baked a loaf in the shape of a hat
    to ask a wise man about rheumatism | recommended warm sand, on a wise man's advice
    to look for a missing cousin | brought in a cousin, who had been mending nets all those years
    to teach the parrot nothing rude | presented the parrot, which wished everyone a blessed evening
    to be brave at the dentist's | opened wide, and one tooth was missing
    to measure a giant | unrolled a string that was eleven yards long
    to bring the recipe for green soup | cooked a green soup, and it was excellent
    to guard the family umbrella | hung the family umbrella on its peg
    to blow out no candles but birthday candles | lit a candle, and nobody blew it out
""")  # fmt: skip
