"""The places of the stories, the ways to them, and what is met there: weather, sights, spots."""

from dataclasses import dataclass

from llm_from_scratch.tales.choices import Table, rows, words


@dataclass(frozen=True)
class Place:
    """A place to go to: its name, and how to say that something is there."""

    text: str
    there: str


HOMES = words("home", "place", """
    in a cottage at the edge of the forest
    in a mill that had forgotten how to grind
    in a village with one street and eleven dogs
    in a hut made of driftwood
    in a tower with a leaking roof
    in a town where it was always market day
    in a house no wider than a cupboard
    on a farm between two rivers
    in a cave with curtains
    in a castle with a single room
    under a boat that lay upside down on the beach
    in a valley full of cowbells
    in an inn at a crossroads
    in a street of lantern makers
    in a hollow linden tree
    in a monastery without monks
    at a harbour at the end of the map
    in a wagon with blue wheels
    in an attic above the bakery
    in a lighthouse on a bare rock
    in a village behind the ninth hill
    in a greenhouse with broken panes
    at a railway station where no train ever stopped
    in a barn that smelled of clover
    on a windy island
    in a house on stilts
    in a city of a thousand chimneys
    in a cellar under the town hall
    in a clearing among birches
    in a ruined chapel
    in a fortress that nobody had ever attacked
    on a meadow in the mountains
""", zipf=True)  # fmt: skip
PLACES = Table("place", "place", [Place(*row) for row in rows("""
    the old well | at the old well
    the glass hill | on the glass hill
    the whispering wood | in the whispering wood
    the ruined abbey | in the ruined abbey
    the frozen lake | by the frozen lake
    the island of gulls | on the island of gulls
    the hollow mountain | inside the hollow mountain
    the king's orchard | in the king's orchard
    the dark pond | beside the dark pond
    the burnt mill | at the burnt mill
    the robbers' cave | in the robbers' cave
    the castle of thorns | in the castle of thorns
    the silver mine | down in the silver mine
    the gallows hill | on the gallows hill
    the seventh bridge | under the seventh bridge
    the moor of lights | out on the moor of lights
    the giants' table | on the giants' table
    the drowned village | in the drowned village
    the stone circle | within the stone circle
    the lonely chapel | behind the lonely chapel
    the cloud market | at the cloud market
    the forgotten garden | in the forgotten garden
    the hermit's hut | in the hermit's hut
    the waterfall of milk | below the waterfall of milk
    the northern tower | at the top of the northern tower
    the ferry house | near the ferry house
    the salt desert | in the salt desert
    the fox's court | at the fox's court
    the library of the winds | in the library of the winds
    the cliff of swallows | on the cliff of swallows
    the empty palace | in the empty palace
    the quarry of echoes | in the quarry of echoes
    the blue forest | deep in the blue forest
    the clock tower of Nod | in the clock tower of Nod
    the beach of lost things | on the beach of lost things
    the witches' meadow | on the witches' meadow
    the tunnel of bats | in the tunnel of bats
    the inn of the three moons | in the inn of the three moons
    the wishing tree | under the wishing tree
    the end of the rainbow | at the end of the rainbow
""")], zipf=True)  # fmt: skip
SPOTS = words("spot", "place", """
    under a flat stone
    in a hollow oak
    behind a loose brick
    among the roots of a yew
    beneath a heap of leaves
    in a cracked jug
    on a bed of moss
    inside an empty beehive
    behind a curtain of ivy
    between two milestones
    in an abandoned nest
    beneath the third step
    in the shade of a thistle
    under an upturned boat
    in a box without a lid
    on a throne of snow
    behind a stuffed bear
    beneath a broken wheel
    in the sleeve of a scarecrow
    on the lowest branch of an elder
    inside a rusty helmet
    in the drawer of a desk
    beside a puddle shaped like a star
    below a bench with one leg
""")  # fmt: skip
WAYS = words("way", "place", """
    over the hill
    through the nettles
    past three crooked birches
    along the railway
    across a field of poppies
    down a flight of mossy steps
    round a pond full of ducks
    up a road of red clay
    through a village asleep in the sun
    under a bridge where a poet lived
    past the house of the hangman
    over seven stiles
    between two hedges of hawthorn
    along a brook that talked to itself
    through a gate without a fence
    across a marsh on planks
    beside a wall with no end
    through clouds of gnats
    past a chapel with a crooked cross
    over stubble and stones
    into a ravine and out again
    through a wood of silver firs
    along the dyke
    past a pump where women were gossiping
    through the vineyard of a duke
    across a square full of pigeons
    up and down nine hills
    past a windmill with two sails
    along a row of poplars
    through ferns as high as a horse
    across the shallow end of a river
    by a short cut that was not short
    through an avenue of statues
    past a field where giants played at bowls
    over a heath of purple heather
    beneath a sky full of swallows
    past the smithy and its shower of sparks
    down a slope of loose gravel
    across a dry canal
    through a tollgate with a sleeping keeper
    between rows of cabbages
    along the foot of a cliff
    round a burial mound
    through knee-deep bracken
    past an orchard behind spikes
    over a wobbling suspension bridge
    up a spiral of white chalk
    through a hamlet that smelled of onions
""")  # fmt: skip
SIGHTS = words("sight", "detail", """
    a hedgehog pushing a pram
    a snail that was reading a newspaper
    two crows playing chess
    a bishop up a tree
    a cow with an umbrella
    a procession of ants in mourning
    a scarecrow who had lost his hat
    a well-dressed frog waiting for the coach
    a postman asleep in the clover
    a hare boxing with its own shadow
    a cloud tied to a post
    seven swans in single file
    a baker chasing a runaway pancake
    a rainbow with one colour missing
    a goat on the roof of the school
    a fish climbing a ladder
    an old man who was sweeping the forest
    a carriage drawn by mice
    a pig looking through a telescope
    a wedding of magpies
    a tailor measuring a horse for trousers
    a gravestone with no name on it
    a barrel rolling uphill
    a violin growing on a bush
    a sheep that was knitting
    a judge wading for watercress
    a stone that had rolled over to sleep on its other side
    a rooster preaching to some turnips
    a boy walking a tortoise on a string
    a ship stranded in a wheat field
    a spider repairing a fence
    a beggar feeding pheasants
    a statue scratching its nose
    a soldier teaching bees to drill
    a butterfly asleep on a bayonet
    a chimney smoking a pipe
    a cat selling tickets to the moon
    a fountain that ran with lemonade
    an acorn wearing its cap backwards
    a bear practising scales on a trombone
    a millstone with a beard of moss
    an emperor buying onions
    a swing that moved without a child
    two snowmen waiting for summer
    a kangaroo, which nobody could explain
    a windmill grinding moonbeams
    a monk racing a snail
    a caterpillar trying on gloves
    an anchor in the top of a pine
    a laundry line full of flags
    a walrus in a rowing boat
    an elephant hiding behind a lamp post
""")  # fmt: skip
REACTIONS = words("reaction", "detail", """
    nobody else seemed to find it strange
    there was no time to ask why
    stranger things have been seen in that country
    at the second glance nothing was there
    no harm was done
    that is another story
    one must not stare
    some things are better left alone
    such is life in the country
    it had begun to drizzle
    the road was long
    perhaps it was only a trick of the light
""")  # fmt: skip
TIMES_OF_DAY = words("time", "detail", """
    morning
    Thursday
    market day
    Sunday after church
    afternoon
    day after the fair
    day before breakfast
    day like any other
    Wednesday
    washing day
    holiday
    Monday at noon
    day of good omens
    Friday the thirteenth
    Saturday
    day after a sleepless night
""")  # fmt: skip
WEATHER = words("weather", "detail", """
    the sun shone on the wet grass
    a thin mist lay over the fields
    the wind blew from the east
    the clouds looked like sheep
    it smelled of hay
    the first leaves were falling
    the puddles were full of sky
    snow lay on the roofs
    the air was as clear as glass
    it rained in long grey strings
    the swallows flew low
    a rainbow stood over the church
    thunder grumbled far away
    the dew hung on every web
    the chestnuts were in bloom
    hail rattled on the shutters
    the moon had forgotten to set
    a warm breeze came from the south
    the ice was thawing on the ponds
    even the weathercock stood still
""")  # fmt: skip
SHELTERS = words("shelter", "place", """
    in a haystack
    under a juniper bush
    in an empty barn
    on a heap of dry leaves
    in a shepherd's hut
    beneath an old cart
    in the porch of a church
    under the open sky
    in a boat drawn up on the bank
    between two warm cows
    in a bell tower
    beside a dying campfire
""")  # fmt: skip
DREAMS = words("dream", "detail", """
    a table laid for a hundred guests
    a staircase that led down into the sea
    a horse with a letter in its mouth
    the house at home, grown as small as a shoe
    a snowfall of white feathers
    a king who could not find his throne
    a forest in which every tree had a face
    a clock that struck thirteen
    bread rising until it filled the town
    a door in the middle of a meadow
    fishes swimming through the streets
    an orchestra of grasshoppers
    a train made of gingerbread
    the moon asking for a glass of water
    a library where the books were asleep
    a shadow that went its own way
    a mountain asking the way to the valley
    an egg that hatched a second moon
    a parade of empty coats
    rain falling upwards
    a whale in the horse pond
    a kite that pulled the whole village into the air
    a violin case full of bees
    a teacher made entirely of chalk
""")  # fmt: skip
VERBS = words("went", "action", """
    walked
    wandered
    marched
    trotted
    hurried
    hiked
    tramped
    strolled
    limped
    ran
    crept
    plodded
    skipped
    rambled
    hopped
    trudged
""", zipf=True)  # fmt: skip
SOFTLY = words("softly", "action", """
    tiptoed
    crawled
    slipped
    stole
    glided
    edged
    sneaked
    inched
""")  # fmt: skip
SIMILES = words("simile", "detail", """
    a lark in the morning
    a king on his birthday
    a child in the snow
    a bee in clover
    a miller in a gale
    a fish after rain
    a cat on a warm stove
    a dog with two tails
    a sailor in sight of land
    a mouse in a cheese shop
    a goose in a barley field
    a baker at Easter
    a frog in a thunderstorm
    a schoolboy in July
    a piper at a wedding
    a farmer under a full barn
""")  # fmt: skip
WHYS = words("why", "detail", """
    cats do not care for umbrellas
    millers sleep with one eye open
    the moon is thin twice a month
    hens look surprised
    old doors creak
    nobody trusts a quiet goose
    spoons are round
    the sea is salty on Thursdays
    crows wear black
    bread always lands on the buttered side
    the wind knows everybody by name
    tortoises take their time
    church mice are poor
    owls ask the same question every night
    foxes say good evening
    grandmothers keep string
    snow makes no noise
    brooks are never out of breath
    bears dance only when they must
    dogs turn round three times before lying down
""")  # fmt: skip
