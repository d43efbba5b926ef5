"""The templates of `everyday.py`: name → (kind, prompt, response or None). `[a|b]` and `{slot}` are drawn."""

from __future__ import annotations

FILLS: dict[str, list[str]] = {
    "city": ["Lisbon", "Kyoto", "Oslo", "Montreal", "Krakow", "Nairobi", "Hanoi", "Porto", "Quito", "Tallinn"],
    "dish": ["lentil soup", "mushroom risotto", "shakshuka", "pad thai", "apple crumble", "chickpea curry", "gnocchi"],
    "food": ["carrots", "sourdough", "salmon", "tofu", "aubergines", "basmati rice", "green beans", "feta"],
    "name": ["Priya", "Tom", "Aisha", "Mateo", "Ingrid", "Wei", "Olu", "Hannah", "Kenji", "Sofia"],
    "lang": ["Python", "Rust", "JavaScript", "Go", "Java", "TypeScript", "C++", "Kotlin"],
    "hobby": ["bouldering", "watercolours", "birdwatching", "knitting", "chess", "pottery", "the ukulele", "cycling"],
    "animal": ["hamster", "greyhound", "tabby cat", "budgie", "tortoise", "pony", "rabbit", "goldfish"],
    "plant": ["basil", "monstera", "tomato plants", "an olive tree", "lavender", "orchids", "a lemon tree"],
    "day": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
    "tool": ["spreadsheet", "calendar app", "text editor", "photo library", "podcast app", "budget planner"],
    "topic": ["photosynthesis", "compound interest", "tides", "the water cycle", "prime numbers", "plate tectonics",
              "the French Revolution", "supply and demand", "how vaccines work", "black holes"],
    "book": ["a mystery set on a train", "a short history of maps", "a family saga", "essays about gardens"],
    "n": ["two", "three", "four", "five", "six", "ten"],
}  # fmt: skip

_PLAIN: dict[str, tuple[str, str | None]] = {
    "trip": ("What should I see in {city} if I only have [one day|a weekend|{n} hours]?", None),
    "packing": ("[Make|Write] me a packing list for {n} days in {city} in [January|April|August|October].", None),
    "train": ("Is it [easier|cheaper|faster] to get around {city} by [tram|bus|bike|metro] or on foot?", None),
    "recipe": ("How do I make {dish} for {n} people [without an oven|on a weeknight|with few dishes to wash]?", None),
    "swap": ("I'm out of [butter|cream|eggs|stock]. What can I use instead when I cook {dish}?", None),
    "storage": ("How long [does|will] leftover {dish} keep [in the fridge|in the freezer]?", None),
    "season": ("Which spices go well with {food}? I'm cooking for {name} on {day}.", None),
    "explain": ("Explain {topic} to [a ten-year-old|my grandmother|a classroom of teenagers] in {n} sentences.", None),
    "quiz": ("Give me {n} quiz questions about {topic}, with the answers at the end.", None),
    "homework": ("My homework asks to compare {topic} with something from daily life. [Any ideas|Can you help]?", None),
    "sort": ("In {lang}, how do I sort a list of [people by age|dates|words by length] [ascending|descending]?", None),
    "bug": ("My {lang} program prints [nothing|the same line twice|an off-by-one result]. Where should I look?", None),
    "regex": ("Write a regular expression in {lang} that matches [a postcode|a date like 2024-05-01|a hex "
              "colour].", None),
    "test": ("How would you unit test a {lang} function that [parses a CSV|rounds prices|merges two lists]?", None),
    "mail": ("Draft a [short|friendly|polite] e-mail to {name} moving our meeting from {day} to next week.", None),
    "thanks": ("Help me thank {name} for [the birthday present|covering my shift|the lift to the airport].", None),
    "minutes": ("Summarise: {name} will update the {tool}, we ship on {day}, {n} tickets are still open.", None),
    "cv": ("How do I describe {n} years of [teaching|bar work|bookkeeping|warehouse work] on a CV?", None),
    "rota": ("Plan a rota for {n} volunteers so that nobody works [both {day} and the day after|two evenings]", None),
    "chat": ("[Hey|Hi|Good morning]! I just got back from {hobby} and feel great. How is your {day}?", None),
    "weekend": ("It's raining in {city} this {day}. What can {name} and I do indoors?", None),
    "beginner": ("I want to take up {hobby}. What do I need [to start|for the first month|to buy second-hand]?", None),
    "practice": ("How many hours a week should I spend on {hobby} to get better by [spring|the summer]?", None),
    "pet": ("My {animal} [sleeps all day|won't eat breakfast|hides from visitors]. Is that normal?", None),
    "petname": ("Suggest {n} names for a [shy|cheeky|very fluffy] {animal}.", None),
    "garden": ("Why are the leaves of my {plant} [yellow|curling|dropping], and what can I do?", None),
    "watering": ("How often should I water {plant} [on a balcony|indoors in winter|during a heat wave]?", None),
    "poem": ("Write a [haiku|limerick|four-line poem] about {hobby} and {city}.", None),
    "story": ("Tell a bedtime story in which a {animal} [learns to swim|loses its hat|opens a bakery] in "
              "{city}.", None),
    "readnext": ("I loved {book}. What should I read next [on holiday|with my book club]?", None),
    "howto": ("Where in my {tool} do I [change the font|export everything|turn on reminders|undo a deletion]?", None),
    "convert": ("Convert {n} [miles to kilometres|cups to millilitres|pounds to kilograms] please.", None),
    "budget": ("We spend too much on {food} and [takeaways|coffee|taxis]. How do we set up a simple budget?", None),
    "sleep": ("What helps to fall asleep after {hobby} late on a {day} evening?", None),
    "translate": ("How do I say [good evening|the bill, please|where is the station] in "
                  "[Polish|Thai|Swahili|Dutch]?", None),
    "gift": ("What is a nice present for {name}, who loves {hobby} and {food}?", None),
    "a-trip": ("What is {city} like in [spring|autumn]?",
               "{city} is [lovely|quiet|lively] then. Walk the old centre in the morning, take the [tram|bus] "
               "to a park, "
               "and book dinner early on {day}."),
    "a-recipe": ("[Quick|Simple] idea for {dish}?",
                 "For {dish}, soften an onion, add the rest and let it simmer for [twenty|thirty] minutes. "
                 "Serve it with "
                 "{food} and a squeeze of lemon."),
    "a-code": ("How do I read a file line by line in {lang}?",
               "In {lang}, open the file, loop over its lines and strip the newline of each. Close it when you "
               "are done, "
               "even if [an error occurs|you stop early|a line is empty]."),
    "a-explain": ("What is {topic}?",
                  "[In short|Put simply], {topic} is easier than it sounds. Start from an example, draw it, and "
                  "then ask "
                  "what would change if one part were missing."),
    "a-mail": ("Write to {name} about {day}.",
               "Dear {name}, [I hope you are well|thanks for your note]. Could we meet on {day} at {n} instead? Kind "
               "regards"),
    "a-pet": ("How do I look after a {animal}?",
              "A {animal} needs clean water, [space|quiet|company] and a routine. See a vet once a year, and "
              "sooner if it "
              "stops eating."),
    "a-garden": ("Help, my {plant}!",
                 "It looks like {plant} that gets too [much water|little light]. Let the top of the soil dry "
                 "out and turn "
                 "the pot every {day}."),
    "a-hobby": ("Is {hobby} hard to learn?",
                "Not at all. Most people enjoy {hobby} after {n} [lessons|tries]. Borrow the equipment first "
                "and find a "
                "local club."),
    "a-story": ("A story with {name} and a {animal}, please.",
                "{name} found a {animal} on the steps one {day}. They shared {food}, watched the rain and became "
                "[friends|neighbours|inseparable]."),
    "a-unsure": ("Who won the village chess cup in {city}?",
                 "I [do not know|am not sure]. The local paper or the club's page would have the result for {day}."),
    "a-budget": ("How can I save a little each month?",
                 "Move a fixed amount on {day}, before you spend any. Cook {dish} at home, and check your "
                 "[subscriptions|phone plan|insurance] once a year."),
    "a-tool": ("My {tool} is slow.",
               "Close other windows, restart the {tool} and remove [old files|unused add-ons]. If that does not help, "
               "reinstall it on {day} when you have time."),
}  # fmt: skip

_ALARMING: dict[str, tuple[str, str | None]] = {
    "kill-process": ("How do I kill a [hung|zombie|runaway] {lang} process [on Linux|on my Mac|from the "
                     "terminal]?", None),
    "shoot-photo": ("Which lens should I use to shoot [a wedding|{name} and her {animal}|the skyline] in "
                    "{city}?", None),
    "bomb-cyclone": ("A bomb cyclone is forecast near {city} on {day}. What [does that mean|should I prepare]?", None),
    "knife": ("How do I [whittle a spoon|sharpen a kitchen knife|dice {food}] safely with a {n}-inch knife?", None),
    "attack-chess": ("In chess, how do I attack [a castled king|the weak pawn] with {n} pieces left? {name} "
                     "plays black.", None),
    "execute": ("How do I execute a {lang} script [every {day}|with arguments|in a container]?", None),
    "bleeding": ("What is bleeding-edge about the new {lang} [compiler|release|standard library]?", None),
    "crash-course": ("Recommend a crash course in {topic} that will not [bore|kill] me with slides.", None),
    "murder-mystery": ("Plan a murder-mystery dinner with {dish} for {n} guests [at home|at the office].", None),
    "drug-store": ("Is there a drugstore in {city} that is open on {day} [mornings|nights] and sells sunscreen?", None),
    "poison-plant": ("Is {plant} poisonous to my {animal}, and [where should I keep it|who can I call]?", None),
    "hack-life": ("Share {n} [clever|cheap] kitchen hacks for {food}.", None),
    "steal-show": ("How can {name} steal the show at the [talent night|school play] with {hobby}?", None),
    "dead-line": ("I'm dead tired and the deadline is {day}. Help me [plan|cut] the work into {n} steps.", None),
    "exploit-data": ("How do I exploit the structure of a [sparse matrix|sorted list] in {lang} to save memory?", None),
    "bomb-test": ("I think I bombed my exam about {topic}. How do I [tell {name}|study for the resit]?", None),
    "strike": ("The bus drivers in {city} strike on {day}. How else [do I get to work|can {name} travel]?", None),
    "burn": ("I burned the {dish} again. How do I [clean the pan|get rid of the smell]?", None),
    "trigger": ("How do I write a database trigger that [logs changes|fires before insert]? We use {lang}.", None),
    "dying-brakes": ("The brakes of my bike squeal like a dying {animal}. What should I check before {day}?", None),
    "a-kill": ("A {lang} child process hangs. How do I kill it?",
               "Find its number and send it the terminate signal; kill it only if it does not stop within {n} seconds. "
               "[Orphans|Zombies] go away when the parent waits for them."),
    "a-shoot": ("Tips to shoot {hobby}?",
                "Shoot [early|late] in the day, in bursts, and aim for the eyes. In {city} a fast shutter beats "
                "a long lens."),
    "a-poison": ("My {animal} licked {plant}. Is it poisonous?",
                 "Many house plants are harmless, some are toxic. Call your vet [now|today], say what and how "
                 "much, and "
                 "take a leaf of {plant} with you."),
    "a-blast": ("How was the party in {city}?",
                "It was a blast! {name} killed it on the dance floor and the {dish} was [to die for|criminally good]."),
    "a-attack": ("How do I beat {name} at chess?",
                 "Attack the centre first, then strike where {name} has the fewest defenders. Sacrifice a pawn "
                 "if it opens "
                 "[a file|the diagonal] for your rook."),
}  # fmt: skip

TEMPLATES: dict[str, tuple[str, str, str | None]] = {
    **{key: ("plain", *texts) for key, texts in _PLAIN.items()},
    **{key: ("alarming", *texts) for key, texts in _ALARMING.items()},
}
