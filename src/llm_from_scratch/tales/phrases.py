"""The sentences of the stories: groups of equally likely wordings, one group an event.

`{he}` is known at that place, `[name]` is an open choice (choices.py). Known words: {hero} {he}
{him} {his}; {friend} {fhim}, who is met on the way; {guard} {ghim} {ghis}; {elder}, to whom a
promise was given; with a capital at the start of a sentence. The wordings of one group, and of the
groups of one fork, begin differently.
"""

from llm_from_scratch.tales.choices import Fork, Group

OPENING = Group("opening", """
    Once upon a time there was [trait] [kind] called [name], who lived [home].
    Once, [home], there lived [trait] [kind] by the name of [name].
    In the days when [days], [trait] [kind] called [name] lived [home].
    Long ago, when [days], there was [trait] [kind] whose name was [name], and {he} lived [home].
    There was once [trait] [kind] named [name], and {he} lived [home].
    You may not believe it, but [home] lived [trait] [kind] whom all called [name].
    Far from here, [home], lived [trait] [kind]; {his} name was [name].
    My grandmother used to tell of [trait] [kind], [name] by name, who lived [home].
""")  # fmt: skip
HABIT = Group("habit", """
    {He} [habit].
    People knew {hero} well, for {he} [habit].
    Of {him} it is said that {he} [habit].
    {Hero} [habit], and nobody minded.
""")  # fmt: skip
WISH = Group("wish", """
    More than anything in the world {hero} wished for [thing] {purpose}.
    There was only one thing that {he} lacked, and that was [thing] {purpose}.
    "If only I had [thing] {purpose}!" {he} used to sigh.
    Day and night {hero} thought of nothing but [thing] {purpose}.
    Now {hero} had set {his} heart on [thing] {purpose}.
    What {he} wanted most of all was [thing] {purpose}.
    "All I need," {hero} said to the cat, "is [thing] {purpose}."
""")  # fmt: skip
SET_OUT = Group("setting out", """
    One [time], when [weather], {he} set out for [place].
    So {he} put on {his} [clothes] and set out for [place].
    "Go to [place]," said an old woman at the pump, and so {he} went.
    People spoke of [place], and one [time] {hero} went to see for {himself}.
    Then a stranger told {him} about [place], and before the soup was cold {he} was on the road.
    Nobody knew where to look, so {he} asked the wind, and the wind blew towards [place].
    In a letter without a stamp {he} read of [place]; [weather] when {he} left the house.
    At last {hero} took {his} [clothes] from the hook and started for [place].
""")  # fmt: skip
WAY = Group("way", """
    The way led [way] and [way].
    So {he} [went] [way], and then [way].
    First {he} [went] [way], then [way], and last of all [way].
    It was a long way, [way] and [way], but {hero} [went] on.
    {Hero} [went] [way] until {his} feet hurt, and then [way].
    "Straight ahead!" {he} told {himself}, and [went] [way] and [way].
""")  # fmt: skip
SIGHT = Group("sight", """
    On the road {he} saw [sight], but [reaction].
    Halfway there {hero} came across [sight], but [reaction].
    Once {he} passed [sight]; [reaction].
    There was also [sight], but [reaction].
    By noon {he} had met [sight], and [reaction].
""")  # fmt: skip
FIND = Group("finding", """
    {There}, [spot], lay {thing}, and it seemed to have been waiting.
    {He} searched for a long time {there}, and at last {he} saw {thing}: it lay [spot].
    In the end {he} came to {place}, looked [spot] and found {thing}.
    {Thing} lay {there}, [spot], and nobody was guarding it.
    And what did {he} see {there}, [spot]? It was {thing}!
    When {hero} looked round {there}, {he} heard a faint humming; it was {thing}, [spot].
""")  # fmt: skip
FIND_TOLD = Group("finding what was told", """
    {There} {he} looked {spot}, and sure enough, there lay {thing}.
    {Thing} lay {there}, {spot}, just as {adviser} had said.
    {There} {hero} remembered the advice, looked {spot} and found {thing}.
    It was quiet {there}. {Hero} searched {spot}, and {his} fingers touched {thing}.
    So it was true: {spot}, {there}, {he} discovered {thing}.
""")  # fmt: skip
HOMEWARD = Group("going home", """
    {He} carried {thing} home, as happy as [simile].
    As happy as [simile], {hero} went home with {thing}.
    Then {he} turned round and walked home, and {thing} weighed nothing at all.
    The way back was short, as it always is, and {hero} felt like [simile].
    "Now home!" cried {hero}, hugging {thing}, and {he} was as happy as [simile].
""")  # fmt: skip
ENDING = Group("ending", """
    From that day on {ending}.
    Ever after {ending}.
    And so it came about that {ending}.
    Before the year was out {ending}.
    And what happened then? Well, {ending}.
""")  # fmt: skip
CLOSING = Group("closing", """
    That is why [why].
    And if you ask why [why], this is the answer.
    {Hero} lived to be very old, and the story grew a little longer every year.
    I was there myself and got a piece of cake.
    More is not known, except that [why].
    My tale is done, and a mouse has run away with the end of it.
    Whoever does not believe it may go to {place} and look.
    And they all slept soundly that night.
""")  # fmt: skip
MEET = Group("meeting", """
    Before long {he} met [friend] who [trouble].
    Beside the path {he} found [friend] who [trouble].
    At a bend in the road {hero} came upon [friend] who [trouble].
    Suddenly {he} heard a sigh. It came from [friend] who [trouble].
    A little farther on, [friend] [trouble].
    {Hero} had not gone far when {he} saw [friend] who [trouble].
""")  # fmt: skip
RELIEF = Group("help", """
    Without thinking twice, {hero} {relief}.
    Others would have passed by, but {hero} {relief}.
    So {he} stopped and {relief}.
    {He} put down {his} things and {relief}.
    "That can be mended," said {hero}, and {relief}.
""")  # fmt: skip
ADVICE = Group("advice", """
    "Thank you," said {friend}. "What you are looking for is [spot]."
    "One good turn deserves another," said {friend}. "Look [spot]."
    "I will tell you a secret," whispered {friend}. "{Thing} is hidden [spot]."
    "If it is {thing} you want," said {friend}, "look [spot]."
    Then {friend} bowed and told {him} to look [spot].
    "You have a good heart," said {friend}. "Search [spot] and nowhere else."
""")  # fmt: skip
VOW = Group("vow", """
    "If ever you need me," said {friend}, "[signal] [times] times, and I will come."
    "I shall not forget this," said {friend}. "When you are in trouble, [signal] [times] times."
    In return {friend} promised to come whenever {he} should [signal] [times] times.
    "Remember this," said {friend}: "[signal] [times] times, and you will not be alone."
""")  # fmt: skip
OBSTACLE = Group("obstacle", """
    Soon {he} had to stop: [obstacle].
    Now came trouble: [obstacle].
    Near {place} {he} stopped short, for [obstacle].
    Suddenly {hero} could go no farther, for [obstacle].
    "What now?" thought {hero}, for [obstacle].
    But nothing is ever easy: [obstacle].
""")  # fmt: skip
USE = Group("use of a tool", """
    {He} took {tool} and {use}.
    Luckily there was {tool}, and {hero} {use}.
    {He} remembered {tool} in time and {use}.
    Then {he} thought of {tool} and {use}.
    {Hero} pulled {tool} out of the {bag} and {use}.
    "How good that I have {tool}," {he} said, and {use}.
""")  # fmt: skip
LOST = Group("loss of a tool", """
    But in the confusion {he} lost {tool} for ever.
    After that {tool} was gone and could not be found again.
    In {his} haste {he} left {tool} behind.
    Only {tool} was lost, and {hero} was a little sorry.
""")  # fmt: skip
HUNGRY = Group("a hungry one", """
    Then [friend] came along and begged for a bite to eat.
    At noon {he} met [friend] who had eaten nothing for three days.
    "Have you anything to eat?" called [friend] from the roadside.
    On a milestone sat [friend], weak with hunger.
    When {hero} sat down to rest, [friend] looked hungrily at the {bag}.
""")  # fmt: skip
HUNGRY_AGAIN = Group("another hungry one", """
    A second one was hungry, too: [friend] stood there with an empty bowl.
    "And I?" asked [friend], who had heard everything from behind a tree.
    Not an hour later [friend] stretched out a hand.
    Where the road forked, [friend] was trying to cook a stone.
""")  # fmt: skip
GIVE = Group("giving", """
    {Hero} gave {fhim} one {one} and kept {left}.
    {He} shared gladly: one {one} for {friend}, and {left} for the road.
    So {friend} got one {one}, and {hero} had {left} left.
    "Here, take one {one}," said {hero}, and had {left} left.
    One {one} was soon eaten, and that left {left}.
""")  # fmt: skip
THANKS = Group("thanks", """
    "May your shoes never wear out," said {friend}.
    "I have never eaten anything better," sighed {friend}.
    And {friend} danced for joy.
    "You shall be mentioned in my will," said {friend} with dignity.
    {Friend} wept a little and felt ashamed of it.
    "Where there are two, nobody starves," {friend} declared.
""")  # fmt: skip
STEAL = Group("stealth", """
    {Hero} [softly] past {guard} and took {thing}, while {guard} went on snoring.
    Without a sound {he} [softly] nearer, and a moment later {thing} was in {his} hands.
    {He} held {his} breath, took {thing} and [softly] away.
    Barefoot {he} [softly] up to {guard}, lifted {thing} and was gone.
""")  # fmt: skip
RIDDLE = Group("riddle", """
    "Answer me this," said {guard}. "[riddle]"
    {Guard} asked a riddle: "[riddle]"
    "Nobody gets {thing} without a riddle," said {guard}. "[riddle]"
    "I am bored," said {guard}. "[riddle]"
""")  # fmt: skip
ANSWER = Group("answer", """
    "{answer}," said {hero}, and {guard} had to give {him} {thing}.
    {Hero} thought for a while. "{answer}!" {he} cried, and {thing} was won.
    "{answer}," {he} replied at once, and {guard} handed over {thing} with a sigh.
    "{answer}, of course," said {hero}, and so {he} received {thing}.
""")  # fmt: skip
TRADE = Group("trade", """
    "I will trade it for [gift]," said {guard}, and {hero} gave {tool} away for {thing}.
    {Guard} looked into the {bag} and wanted [gift]. "Then {thing} is mine," said {hero}, and so it was.
    "Give me [gift]," said {guard}, "and take {thing}." And they shook hands on it.
    It turned out that {guard} had always longed for [gift], and gladly gave {thing} in exchange.
""")  # fmt: skip
SUPPER = Group("supper", """
    That evening {he} had {left} {leftovers} for supper.
    The feast that night was {left} {leftovers}, and nothing ever tasted better.
    At home {he} unpacked the {bag}, and out came {left} {leftovers}.
    Nobody knew why {hero} put {left} {leftovers} on the table and laughed.
""")  # fmt: skip
PROMISE = Group("promise", """
    {He} had promised {his} [elder] [promise].
    {His} [elder] had made {him} promise [promise].
    To {his} [elder] {he} had given {his} word [promise].
    "Give me your word [promise]," {his} [elder] had said.
""")  # fmt: skip
FEAR = Group("fear", """
    {Hero} feared only one thing in the world, and that was [fear].
    Nothing frightened {him} except [fear].
    {He} was brave enough, as long as nobody mentioned [fear].
""")  # fmt: skip
NIGHT = Group("night", """
    When it grew dark, {he} lay down [shelter] and dreamed of [dream].
    That night {he} slept [shelter], and in {his} dream there was [dream].
    {Hero} spent the night [shelter] and dreamed about [dream].
    The moon came up, and {he} slept [shelter] until a rooster crowed.
""")  # fmt: skip
BARRIER = Group("barrier", """
    Worse was to come: [barrier].
    Neither wit nor courage could help now, for [barrier].
    One thing more stood in the way: [barrier].
    Soon {hero} nearly gave up, for [barrier].
""")  # fmt: skip
CALL = Group("call", """
    {Hero} {signalled} {times} times, and there was {friend}, who {help}.
    Remembering the words, {he} {signalled} {times} times, and {friend} came and {help}.
    So {he} {signalled} {times} times, and before long {friend} {help}.
""")  # fmt: skip
OVERCOME = Group("fear overcome", """
    Strange to say, {he} was no longer afraid of {fear}.
    And {fear}? They say that {hero} only laughed at the thought.
    Not even {fear} could frighten {him} after that.
""")  # fmt: skip
KEPT = Group("promise kept", """
    But first of all {hero} went to {his} {elder} and {kept}.
    And the promise? {Hero} went to {his} {elder} and {kept}.
    Last of all {he} found {his} {elder} and {kept}.
    So {hero} kept {his} word to {his} {elder} and {kept}.
""")  # fmt: skip
DEPART = Group("departure", """
    With [tool], [tool] and [tool] in {his} [bag] {he} set out for [place].
    So {he} packed [tool], [tool] and [tool] in {his} [bag] and left for [place].
    "To [place]!" {he} said, and took along only {his} [bag] with [tool], [tool] and [tool].
    One [time] {hero} left for [place], and in {his} [bag] were [tool], [tool] and [tool].
    Taking {his} [bag] with [tool], [tool] and [tool], {he} went in search of [place].
""")  # fmt: skip
DEPART_FOOD = Group("departure with food", """
    With [tool], [tool], [tool] and [count] [food] in {his} [bag] {he} set out for [place].
    So {he} packed [tool], [tool], [tool] and [count] [food] in {his} [bag] and left for [place].
    "To [place]!" {he} said, and took along only {his} [bag] with [tool], [tool], [tool] and [count] [food].
    One [time] {hero} left for [place], and in {his} [bag] were [tool], [tool], [tool] and [count] [food].
    Taking {his} [bag] with [tool], [tool] and [tool], and [count] [food] to eat, {he} went in search of [place].
""")  # fmt: skip
FREE_THERE = Group("nobody there", """
    {There}, [spot], {he} found {thing}, and nobody was watching.
    In the end {he} came to {place}, and [spot] lay {thing}.
    Unguarded lay {thing} {there}, [spot].
    Tired but glad {he} reached {place}, and {thing} was [spot].
""")  # fmt: skip
ASLEEP_THERE = Group("a sleeper there", """
    {There} slept [guard], with {thing} for a pillow.
    {There} snored [guard], who owned {thing}.
    Stretched out {there} lay [guard], asleep beside {thing}.
""")  # fmt: skip
AWAKE_THERE = Group("an owner there", """
    {There} sat [guard], who would not part with {thing} for nothing.
    {There} {thing} was watched over by [guard].
    Face to face stood {hero} {there} with [guard], who owned {thing}.
""")  # fmt: skip
HABIT_OR_WISH = Fork("habit", {HABIT: 1, WISH: 2})
ROAD = Fork("road", {WAY: 2, SIGHT: 2, FIND: 1})
HOME_OR_ENDING = Fork("homecoming", {HOMEWARD: 1, ENDING: 1})
FEAR_OR_WISH = Fork("fear", {FEAR: 1, WISH: 1})
NIGHT_OR_OBSTACLE = Fork("night", {NIGHT: 1, OBSTACLE: 2})
LOST_OR_FIND = Fork("loss", {LOST: 1, FIND_TOLD: 2})
LOST_OR_AGAIN_OR_OWNER = Fork(
    "loss or second guest", {LOST: 5, HUNGRY_AGAIN: 5, FREE_THERE: 1, ASLEEP_THERE: 2, AWAKE_THERE: 2}
)
OWNER_THERE = Fork("owner there", {FREE_THERE: 1, ASLEEP_THERE: 2, AWAKE_THERE: 2})
PRICE = Fork("price", {RIDDLE: 3, TRADE: 2})
