"""Write errata's own text, `src/errata/data/sample_text.jsonl.xz`: what second moments are taken of by default.

    python scripts/write_sample_text.py

Two halves of about 15,000 tokens. Statements: names of all kinds at the beginning of short sentences, for there the
facts of an edit stand and there its neighbours are (docs/log.md: measured against longer text). Documents: what SmolLM2
writes after its document separator. Names and sentences were written for errata; the rest is the output of a model
under Apache-2.0.
Prints the SHA-256 that errata/stats/default_text.py holds.
"""

import json
import lzma
import random
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import errata
from errata.models.run.generate import sample_ids


def _words(text: str) -> list[str]:
    return text.split()


OUT = Path(__file__).resolve().parent.parent / "src" / "errata" / "data" / "sample_text.jsonl.xz"
TOKENS = 15_000
DOCUMENT_TOKENS = 128

COUNTRIES = """Argentina Armenia Australia Austria Bangladesh Belgium Bolivia Brazil Bulgaria Cambodia Cameroon Canada
Chile China Colombia Croatia Cuba Denmark Ecuador Egypt Estonia Ethiopia Finland France Georgia Germany Ghana Greece
Hungary Iceland India Indonesia Iran Iraq Ireland Israel Italy Jamaica Japan Jordan Kazakhstan Kenya Latvia Lebanon
Libya Lithuania Madagascar Malaysia Mexico Mongolia Morocco Nepal Netherlands Nigeria Norway Pakistan Panama Peru
Philippines Poland Portugal Romania Russia Senegal Serbia Slovakia Slovenia Somalia Spain Sudan Sweden Switzerland
Syria Taiwan Tanzania Thailand Tunisia Turkey Uganda Ukraine Uruguay Uzbekistan Venezuela Vietnam Yemen Zambia
Zimbabwe"""
CITIES = """Aberdeen, Accra, Adelaide, Ankara, Antwerp, Athens, Auckland, Baghdad, Baku, Bangalore, Bangkok,
Barcelona, Basel, Beirut, Belgrade, Berlin, Bilbao, Bogotá, Bologna, Boston, Brisbane, Brussels, Bucharest, Budapest,
Buenos Aires, Cairo, Calgary, Cape Town, Caracas, Casablanca, Chicago, Cologne, Copenhagen, Dakar, Dallas, Delhi,
Denver, Detroit, Dhaka, Dresden, Dubai, Dublin, Edinburgh, Florence, Frankfurt, Geneva, Genoa, Ghent, Glasgow,
Gothenburg, Hamburg, Hanoi, Havana, Helsinki, Hong Kong, Houston, Istanbul, Jakarta, Jerusalem, Johannesburg, Kabul,
Kampala, Karachi, Kathmandu, Kiev, Kingston, Kobe, Kraków, Kuala Lumpur, Kyoto, Lagos, Lahore, Leeds, Leipzig, Lima,
Lisbon, Liverpool, London, Los Angeles, Lyon, Madrid, Manchester, Manila, Marseille, Melbourne, Mexico City, Miami,
Milan, Montreal, Moscow, Mumbai, Munich, Nairobi, Naples, New York, Odessa, Osaka, Oslo, Ottawa, Oxford, Palermo,
Paris, Perth, Philadelphia, Porto, Prague, Quebec, Quito, Reykjavik, Riga, Rio de Janeiro, Rome, Rotterdam, Saint
Petersburg, Salzburg, San Francisco, Santiago, São Paulo, Sarajevo, Seattle, Seoul, Seville, Shanghai, Singapore,
Sofia, Stockholm, Stuttgart, Sydney, Tallinn, Tehran, Tel Aviv, Tokyo, Toronto, Toulouse, Tunis, Turin, Valencia,
Vancouver, Venice, Vienna, Vilnius, Warsaw, Zagreb, Zurich"""
PEOPLE = """Ada Lovelace, Agatha Christie, Albert Camus, Albert Einstein, Alexander Graham Bell, Alfred Hitchcock,
Angela Merkel, Anton Chekhov, Antonio Vivaldi, Aretha Franklin, Aristotle, Arnold Schwarzenegger, Arthur Conan Doyle,
Astrid Lindgren, Audrey Hepburn, Barack Obama, Bertrand Russell, Billie Holiday, Bob Dylan, Bob Marley, Boris Becker,
Brigitte Bardot, Bruce Springsteen, Carl Friedrich Gauss, Catherine Deneuve, Charles Darwin, Charles de Gaulle,
Charles Dickens, Charlie Chaplin, Chopin, Christopher Columbus, Claude Debussy, Claude Monet, Clint Eastwood, Coco
Chanel, Cristiano Ronaldo, David Bowie, David Hilbert, Diego Maradona, Dmitri Mendeleev, Dolly Parton, Édith Piaf,
Elizabeth Taylor, Ella Fitzgerald, Elvis Presley, Emmy Noether, Enrico Fermi, Ernest Hemingway, Ernest Rutherford,
Federico Fellini, Fidel Castro, Florence Nightingale, Franz Kafka, Franz Schubert, Freddie Mercury, Frida Kahlo,
Friedrich Nietzsche, Fyodor Dostoevsky, Gabriel García Márquez, Galileo Galilei, George Clooney, George Orwell, George
Washington, Giuseppe Verdi, Greta Garbo, Gustav Mahler, Hannah Arendt, Hans Christian Andersen, Hermann Hesse, Hillary
Clinton, Humphrey Bogart, Igor Stravinsky, Immanuel Kant, Indira Gandhi, Ingmar Bergman, Isaac Asimov, Isaac Newton,
Jane Austen, Jean-Paul Sartre, Jimi Hendrix, Johann Sebastian Bach, Johannes Brahms, Johannes Kepler, John Coltrane,
John F. Kennedy, John Lennon, Jorge Luis Borges, Julia Roberts, Julius Caesar, Karl Marx, Kofi Annan, Kurt Gödel, Le
Corbusier, Leo Tolstoy, Leonard Bernstein, Leonhard Euler, Lewis Carroll, Lionel Messi, Louis Armstrong, Louis
Pasteur, Ludwig van Beethoven, Ludwig Wittgenstein, Mahatma Gandhi, Margaret Thatcher, Marie Curie, Marilyn Monroe,
Mark Twain, Marlon Brando, Martin Luther King, Max Planck, Max Weber, Meryl Streep, Michael Faraday, Michael
Schumacher, Michelangelo, Miguel de Cervantes, Mikhail Gorbachev, Miles Davis, Mother Teresa, Muhammad Ali, Napoleon,
Nelson Mandela, Niels Bohr, Nikola Tesla, Nina Simone, Noam Chomsky, Norah Jones, Oscar Wilde, Pablo Neruda, Pablo
Picasso, Paul Cézanne, Paul McCartney, Pelé, Plato, Queen Victoria, Rabindranath Tagore, Rembrandt, René Descartes,
Richard Feynman, Richard Wagner, Robert De Niro, Roger Federer, Rosa Parks, Salvador Dalí, Samuel Beckett, Serena
Williams, Sigmund Freud, Simone de Beauvoir, Socrates, Sophia Loren, Stephen Hawking, Steven Spielberg, Stevie Wonder,
Tim Berners-Lee, Toni Morrison, Usain Bolt, Victor Hugo, Vincent van Gogh, Virginia Woolf, Vladimir Nabokov, Voltaire,
W. B. Yeats, Walt Disney, Walter Benjamin, Werner Heisenberg, William Blake, Winston Churchill, Wolfgang Amadeus
Mozart, Woody Allen, Yo-Yo Ma, Yuri Gagarin, Zinedine Zidane"""
COMPANIES = """Adidas, Adobe, Airbus, Alibaba, Amazon, Apple, BMW, Boeing, Canon, Chevrolet, Chrysler, Citroën,
Coca-Cola, Dell, Disney, eBay, Ericsson, Facebook, Ferrari, Fiat, Ford, General Electric, Google, Honda, Hyundai, IBM,
IKEA, Intel, Jaguar, Kodak, Lego, Lufthansa, Mazda, McDonald's, Mercedes-Benz, Microsoft, Mitsubishi, Motorola,
Nestlé, Netflix, Nike, Nintendo, Nissan, Nokia, Oracle, Panasonic, PepsiCo, Peugeot, Philips, Porsche, Renault,
Rolls-Royce, Samsung, Siemens, Sony, Starbucks, Subaru, Suzuki, Tesla, Toshiba, Toyota, Twitter, Unilever, Vodafone,
Volkswagen, Volvo, Xerox, Yahoo, Yamaha"""
PRODUCTS = """Android, Chevrolet Corvette, Chrome, Excel, Fiat 500, Ford Mustang, Game Boy, Gmail, Honda Accord, iPad,
iPhone, iTunes, Java, Kindle, Linux, macOS, Mini Cooper, Nintendo Switch, Nissan Leaf, PlayStation, PostScript,
PowerPoint, Renault Clio, Toyota Corolla, Volkswagen Golf, Walkman, Wii, Windows 95, Xbox, YouTube"""
WORKS = """Alien, Anna Karenina, Animal Farm, Blade Runner, Brave New World, Breaking Bad, Candide, Carmen,
Casablanca, Citizen Kane, Crime and Punishment, Doctor Who, Don Giovanni, Don Quixote, Dracula, Dune, Emma, Fawlty
Towers, Frankenstein, Friends, Game of Thrones, Gone with the Wind, Gulliver's Travels, Guernica, Hamlet, Harry
Potter, House of Cards, Jane Eyre, King Lear, La Traviata, Les Misérables, Lolita, Macbeth, Madame Bovary, Mad Men,
Middlemarch, Moby-Dick, Monty Python's Flying Circus, Nosferatu, One Hundred Years of Solitude, Othello, Peter Pan,
Pinocchio, Pride and Prejudice, Pulp Fiction, Robinson Crusoe, Romeo and Juliet, Seinfeld, Sesame Street, Star Trek,
Star Wars, Swan Lake, The Godfather, The Great Gatsby, The Hobbit, The Lion King, The Little Prince, The Magic Flute,
The Mona Lisa, The Nutcracker, The Odyssey, The Scream, The Simpsons, The Sopranos, The Starry Night, The Trial, The
Wire, Titanic, Treasure Island, Twin Peaks, Ulysses, Vertigo, War and Peace, Wuthering Heights"""
PLACES = """Alcatraz, Angkor Wat, Ayers Rock, Big Ben, Buckingham Palace, Central Park, Checkpoint Charlie, Chichen
Itza, Christ the Redeemer, Death Valley, Easter Island, Hagia Sophia, Hyde Park, Kilimanjaro, Lake Baikal, Lake Como,
Lake Victoria, Loch Ness, Machu Picchu, Mont Blanc, Mount Everest, Mount Fuji, Mount Rushmore, Neuschwanstein, Niagara
Falls, Notre-Dame, Petra, Pompeii, Saint Mark's Basilica, Stonehenge, the Acropolis, the Alhambra, the Amazon River,
the Brandenburg Gate, the Colosseum, the Danube, the Eiffel Tower, the Empire State Building, the Golden Gate Bridge,
the Grand Canyon, the Great Barrier Reef, the Great Wall, the Hermitage, the Kremlin, the Leaning Tower, the Louvre,
the Matterhorn, the Nile, the Panama Canal, the Parthenon, the Prado, the Pyrenees, the Rhine, the Sagrada Família,
the Statue of Liberty, the Suez Canal, the Taj Mahal, the Thames, the Uffizi, the Vatican, the Volga, the White House,
Times Square, Tower Bridge, Uluru, Versailles, Victoria Falls, Yellowstone, Yosemite"""
GROUPS = """ABBA, Arsenal, Bayern Munich, Black Sabbath, CBS, CNN, Daft Punk, Deep Purple, FC Barcelona, Genesis,
Greenpeace, Harvard University, HBO, Iron Maiden, Juventus, Kraftwerk, Led Zeppelin, Liverpool, Manchester United,
Metallica, NASA, NATO, NBC, Oxford University, Pink Floyd, Queen, Radiohead, Real Madrid, Stanford University, the
BBC, the Beatles, the Boston Celtics, the Chicago Bulls, the European Union, the Kinks, the New York Yankees, the Red
Cross, the Rolling Stones, the United Nations, the World Bank, U2, UNESCO"""

# Most names of the world are in no list, and a key depends on the name: made-up ones, so that none comes twice.
FIRST_NAMES = _words("""Adam Ahmed Aisha Akira Alan Alberto Alice Amina Ana Andrei Anna Anton Arthur Astrid Barbara
Beatriz Ben Bernard Boris Brian Camille Carl Carlos Caroline Cecilia Chen Chloe Christine Claire Clara Daniel Darius
David Deborah Denis Diana Diego Dmitri Dorothy Edgar Edith Eduardo Elena Elif Elisa Emil Emma Enrique Erik Esther Eva
Fatima Felix Fernando Filip Fiona Francesca Frank Frederick Gabriel George Gerald Gianni Giulia Grace Greta Gustav
Hamid Hana Harold Hassan Heinrich Helen Henri Hiroshi Hugo Ibrahim Ida Igor Inga Irene Isabel Ivan Jack Jakob James
Jan Javier Jean Jelena Jennifer Joachim Johan John Jonas Jorge José Julia Jun Karen Karin Karl Katarina Kenji Kevin
Klaus Laila Lars Laura Lee Leon Leonid Lin Linda Lucia Luis Luka Magda Manuel Marcel Margaret Maria Mario Mark Marta
Martin Mary Mateo Matilda Maurice Max Mehmet Mei Michel Miguel Mikhail Mina Mohamed Monica Nadia Natalia Nicolas Nina
Noah Olga Oliver Omar Oscar Otto Pablo Patricia Paul Pavel Pedro Peter Petra Philip Pierre Rachel Rafael Ralph Rania
Raymond Rebecca Ricardo Richard Rita Robert Rosa Ruth Salma Samuel Sandra Sara Sean Sergei Simon Sofia Stefan Stella
Susan Sven Tamara Teresa Thomas Tobias Tom Ulrich Ursula Valentina Vera Victor Viktor Vincent Walter Wei William Yara
Yasmin Yuki Yusuf Zhang Zoe""")
LAST_NAMES = _words("""Abbott Abe Adeyemi Ahlberg Alvarez Andersen Araujo Bailey Baker Barnes Bauer Becker Bell
Bennett Berg Bianchi Blake Borg Brandt Brennan Brooks Brown Burns Carter Castro Chaudhry Chen Clarke Cohen Cole Conti
Cooper Costa Cruz Dahl Davies Delgado Diaz Dixon Dubois Duarte Duncan Eklund Eriksson Esposito Evans Farah Ferrara
Fischer Fisher Fleming Fontaine Foster Fox Franco Fraser Fuchs Fujita Garcia Gibson Gomes Graham Grant Green Greco
Gruber Haas Hall Hansen Hart Hayes Herrera Hill Hoffmann Holm Horvat Hughes Hunter Ibrahim Ito Ivanov Jackson Jansen
Jensen Johansson Jones Kaplan Kaur Keller Kelly Khan Kim Klein Koch Kovač Kowalski Kumar Lambert Lang Larsen Laurent
Lee Lehmann Leone Levy Lewis Lim Lindgren Lopez Lund Maier Marino Marsh Martins Mason Meyer Miller Mills Moreau Moreno
Morgan Mori Müller Murphy Nakamura Navarro Nielsen Novak Nowak Okafor Oliveira Olsen Ortega Osman Owen Palmer Parker
Patel Perez Petrov Pham Popescu Porter Price Quinn Rahman Ramos Reed Reyes Ricci Richter Rios Rivera Roberts Romano
Rossi Roth Roy Russo Saito Sanchez Santos Sato Schmidt Schulz Shaw Silva Simons Singh Sokolov Sousa Stewart Stone
Suzuki Svensson Takahashi Tanaka Taylor Torres Tran Turner Usman Vargas Vega Vogel Wagner Walker Wallace Wang Ward
Weber Wells White Williams Winter Wolf Wong Wood Wright Yamamoto Yilmaz Young Zhou Ziegler""")
FIRST_WORDS = _words("""Amber Ancient Atlantic Autumn Black Blue Bright Broken Central Clear Cold Copper Crystal Dark
Distant Double Eastern Emerald Empty Eternal Falling Final First Forgotten Frozen Global Golden Grand Great Green Grey
Hidden High Hollow Inner Iron Last Little Lone Long Lost Lower Midnight Modern Morning National New Noble North
Northern Old Open Pacific Pale Perfect Quiet Rapid Red Rising Royal Sacred Second Secret Silent Silver Single Slow
South Southern Still Stone Sunken Third Twin United Upper Western White Wild Winter Young""")
LAST_WORDS = _words("""Anchor Arrow Bay Bell Bird Book Bridge Castle Circle City Cloud Coast Country Creek Crown Dance
Dawn Desert Door Dream Eagle Echo Edge Empire Falcon Falls Field Fire Flame Forest Fountain Fox Garden Gate Glass
Harbour Heart Hill Hope Horizon House Island Journey Key King Kingdom Lady Lake Lantern Leaf Letter Light Line Lion
Meadow Mirror Moon Mountain Night Ocean Orchard Park Path Peak Pearl Phoenix Planet Point Prince Queen Rain Ridge
River Road Rock Rose Sea Shadow Shore Sky Song Spirit Spring Star Storm Stream Street Summer Sun Sword Tide Tower Tree
Valley Voice Wall Water Wave Wind Window Wing Wolf Wood World""")
_TOWNS = ("ville", "ton", "burg", "ford", "field", " Beach", " Falls", "stadt", "by", " City", "dorf", "wick")
ENDINGS = {
    "company": "Labs, Group, Industries, Systems, Motors, Bank, Airlines, Records, Energy, Foods, Media, Software",
    "product": "One, Pro, X, 2, Max, Drive, Player, Phone, Studio, Engine, 3000, Classic",
    "place": "Bridge, Island, County, River, Lake, Castle, Museum, Park, Cathedral, Airport, Mountains, Bay",
    "group": "University, United, Orchestra, Party, Institute, Society, College, Quartet, Rovers, Council, Union, Club",
}  # fmt: skip

KINDS = {
    "country": (_words(COUNTRIES), """{} is located in; {}, in; {}'s capital city is; The capital of {} is; The
official language of {} is; {} borders; The currency of {} is the; The largest city of {} is; {} belongs to the
continent of; People in {} speak; {} is known for; The president of {} is; Most people in {} are; {} is a member
of; The flag of {} is; The north of {} is; {} shares a border with"""),
    "city": (CITIES, """{} is located in; {} is in the country of; {}, in; {} is a twin city of; {} is the
capital of; The mayor of {} is; {} lies on the river; People in {} speak; The university of {} was founded in;
{} is famous for its; The airport of {} is; {} can be reached from; The old town of {} is; The weather in {} is;
In {} one can visit; {}'s most famous building is; Born in {}, he"""),
    "person": (PEOPLE, """{} was born in; {} was born in the city of; The native language of {} is; {} speaks;
{} works as; {} is a; {}, who; {} died in; {} lived in; {} is a citizen of; The mother tongue of {} was; The
profession of {} is; {} plays; {} was known for; {} worked in the field of; {} is best known for; {} studied at;
The religion of {} is; {} was influenced by; {} was married to; {}'s first success was; The works of {} are; {}
spent his childhood in; {} took up work in; {} performed with; The genre of {} is"""),
    "company": (COMPANIES, """{} was founded in; {} was founded by; The headquarters of {} is in; {} is based
in; {} produces; {} is owned by; The chief executive of {} is; {} was created in the country of; {} is a company
that; Products of {} are sold in; {} competes with; Employees of {} work in; {} announced that; {}, a company
from; The main rival of {} is; {} belongs to"""),
    "product": (PRODUCTS, """{} was developed by; {} is produced by; {}, made by; {} was created by; The maker
of {} is; {} is a product of; {} was introduced in; {} is used for; {} competes with; The first version of {}
was; {} is written in"""),
    "work": (WORKS, """{} was written by; {} was created in; {} premiered on; {} is set in; The author of {} is;
The original language of {} is; {} was made in the country of; {} was released in; The main character of {} is;
{} tells the story of; {}, a work by; The first scene of {} takes place in; {} was inspired by; Critics of {}
say; {} was originally aired on"""),
    "place": (PLACES, """{} is located in; {} is in the city of; {} lies in the country of; {} can be found in;
{}, in; One can visit {} in; {} is owned by; {} was built in; {} belongs to the continent of; Tourists who visit
{} travel to; {} is named after; The story of {} begins in; {} is situated in; A trip to {} starts in; {} is
visited by"""),
    "group": (GROUPS, """{} was formed in; {} was founded in; The headquarters of {} is in; {} is based in; {}
plays; {} is known for; The members of {} are; {} is led by; {} comes from; {} competes with; The history of {}
begins in; {} announced that; Fans of {} say"""),
}  # fmt: skip


def statements() -> Iterator[str]:
    """Sentences without end, each about another name: of the lists as long as there are any, every second made up."""
    chance = random.Random(0)
    listed = {
        kind: names if isinstance(names, list) else [" ".join(name.split()) for name in names.split(",")]
        for kind, (names, _) in KINDS.items()
    }
    for names in listed.values():
        chance.shuffle(names)
    while True:
        for kind, (_, patterns) in KINDS.items():
            invented = made_up(kind, chance)
            name = listed[kind].pop() if listed[kind] and chance.random() < 0.5 else invented
            if name:
                yield _capital(" ".join(chance.choice(patterns.split(";")).split()).replace("{}", name))


def made_up(kind: str, chance: random.Random) -> str | None:
    """A name of a kind that nobody need know; none of countries."""
    if kind in ("person", "city"):
        last = chance.choice(LAST_NAMES)
        return f"{chance.choice(FIRST_NAMES)} {last}" if kind == "person" else f"{last}{chance.choice(_TOWNS)}"
    words = f"{chance.choice(FIRST_WORDS)} {chance.choice(LAST_WORDS)}"
    if kind == "work":
        return f"The {words}" if chance.random() < 0.5 else words
    if kind not in ENDINGS:
        return None
    first = chance.choice([words, chance.choice(LAST_NAMES), chance.choice(FIRST_WORDS)])
    return f"{first} {chance.choice(ENDINGS[kind].split(', '))}"


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def documents(lm: errata.LanguageModel) -> list[str]:
    """Samples after the document separator, each token among the 40 likeliest."""
    start = [lm.tokenizer.convert_tokens_to_ids("<|endoftext|>")]
    count = -(-TOKENS // (DOCUMENT_TOKENS - 1))
    rows = sample_ids(lm, [start] * count, new_tokens=DOCUMENT_TOKENS - 1, top_k=40, seed=0, batch_size=40)
    return [str(lm.tokenizer.decode(row, skip_special_tokens=True)) for row in rows]


def main() -> None:
    lm = errata.load("smollm2")
    texts, tokens = [], 0
    for text in statements():
        texts.append(text)
        tokens += len(lm.tokenizer(text)["input_ids"])
        if tokens >= TOKENS:
            break
    texts += documents(lm)
    # Mixed, so that the first tokens are like all of them.
    random.Random(1).shuffle(texts)
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    packed = lzma.compress(lines.encode(), preset=9 | lzma.PRESET_EXTREME)
    OUT.write_bytes(packed)
    count = sum(len(lm.tokenizer(text)["input_ids"]) for text in texts)
    print(f"{OUT.name}: {len(texts):,} texts, {count:,} tokens, {len(packed):,} bytes")
    print(f"SHA-256 {sha256(packed).hexdigest()}")


if __name__ == "__main__":
    main()
