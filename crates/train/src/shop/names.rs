//! The words that the shop is made of. All invented or too common to name anybody; plain letters, because an e-mail
//! address is made from each name.

pub(super) const FIRST: [&str; 112] = [
    "Mara", "Jonas", "Elif", "Tomas", "Nina", "Peter", "Aisha", "Luca", "Greta", "Omar", "Sofia", "Henrik", "Priya",
    "Marek", "Chloe", "David", "Yuki", "Paulo", "Ingrid", "Samir", "Laura", "Felix", "Amara", "Viktor", "Clara",
    "Diego", "Hanna", "Kofi", "Emma", "Ruben", "Leila", "Oskar", "Julia", "Anton", "Zara", "Matteo", "Freya", "Ivan",
    "Rosa", "Noah", "Mina", "Pavel", "Alice", "Karim", "Stella", "Bjorn", "Lucia", "Adam", "Nadia", "Simon", "Petra",
    "Mateo", "Helena", "Tariq", "Olga", "Rafael", "Signe", "Dario", "Maya", "Erik", "Irene", "Hugo", "Selma", "Marco",
    "Agnes", "Youssef", "Vera", "Daniel", "Ines", "Lars", "Amina", "Carlos", "Edith", "Milan", "Judith", "Stefan",
    "Lina", "George", "Anja", "Ravi", "Celia", "Walter", "Noor", "Andrea", "Tilda", "Bruno", "Farah", "Martin",
    "Eva", "Jasper", "Silvia", "Rashid", "Louise", "Kaspar", "Bianca", "Arthur", "Dina", "Leon", "Marta", "Isaac",
    "Yara", "Gregor", "Emilia", "Hassan", "Tessa", "Jakob", "Sara", "Ulrich", "Nora", "Victor", "Livia", "Conrad",
];

pub(super) const LAST: [&str; 120] = [
    "Lindqvist", "Becker", "Yilmaz", "Novak", "Rossi", "Hansen", "Okafor", "Bianchi", "Weber", "Haddad", "Costa",
    "Larsen", "Sharma", "Kowalski", "Moreau", "Evans", "Tanaka", "Silva", "Berg", "Rahman", "Keller", "Braun",
    "Diallo", "Petrov", "Fischer", "Navarro", "Virtanen", "Mensah", "Schmidt", "Jansen", "Karimi", "Holm", "Wagner",
    "Horvat", "Ahmed", "Ferrari", "Nilsson", "Sokolov", "Garcia", "Cohen", "Popescu", "Dvorak", "Dubois", "Nasser",
    "Conti", "Dahl", "Romano", "Novotny", "Fontaine", "Brandt", "Vargas", "Hughes", "Laine", "Aziz", "Orlov",
    "Mendes", "Krogh", "Marino", "Patel", "Eriksen", "Papadakis", "Laurent", "Demir", "Greco", "Lund", "Mansour",
    "Vogel", "Murphy", "Ramos", "Bakker", "Traore", "Ortega", "Wolff", "Ilic", "Peeters", "Maier", "Salonen",
    "Kaya", "Bauer", "Iyer", "Roux", "Frank", "Visser", "Galli", "Strand", "Leone", "Saleh", "Huber", "Toth",
    "Vermeer", "Serra", "Aydin", "Girard", "Lorenz", "Fabbri", "Winter", "Sayed", "Ekberg", "Ricci", "Stein",
    "Amari", "Pichler", "Santos", "Farouk", "Mulder", "Arnold", "Kuhn", "Zeman", "Caruso", "Falk", "Barros",
    "Lambert", "Jovic", "Sommer", "Katz", "Blom", "Rivera", "Nagy", "Sato", "Moretti",
];

pub(super) const CITIES: [&str; 44] = [
    "Utrecht", "Bergen", "Lyon", "Graz", "Porto", "Leeds", "Ghent", "Turin", "Malmo", "Basel", "Cork", "Brno",
    "Tampere", "Seville", "Leipzig", "Aarhus", "Gdansk", "Nantes", "Bologna", "Bristol", "Linz", "Groningen", "Split",
    "Tartu", "Valencia", "Bremen", "Odense", "Krakow", "Lille", "Verona", "Dundee", "Salzburg", "Antwerp", "Maribor",
    "Kaunas", "Braga", "Mainz", "Uppsala", "Lublin", "Rennes", "Trieste", "York", "Bern", "Haarlem",
];

pub(super) const ITEMS: [&str; 72] = [
    "desk lamp", "coffee grinder", "office chair", "water bottle", "backpack", "wall clock", "kettle", "toaster",
    "rain jacket", "wool blanket", "cutting board", "bread knife", "frying pan", "teapot", "picture frame", "mirror",
    "bookshelf", "bedside table", "floor lamp", "carpet", "pillow", "bath towel", "shower curtain", "laundry basket",
    "umbrella", "leather belt", "scarf", "pair of gloves", "winter coat", "sleeping bag", "camping stove", "tent",
    "bike helmet", "bike lock", "yoga mat", "skipping rope", "football", "chess set", "puzzle", "toy train",
    "teddy bear", "baby monitor", "high chair", "keyboard", "computer mouse", "headset", "phone case", "charger",
    "power bank", "speaker", "alarm clock", "radio", "hair dryer", "razor", "iron", "vacuum cleaner", "fan",
    "heater", "drill", "tool box", "ladder", "garden hose", "flower pot", "bird feeder", "lunch box", "salad bowl",
    "wine rack", "spice mill", "kitchen scale", "baking tin", "plant stand", "doormat",
];

pub(super) const CARRIERS: [&str; 4] = ["Norpost", "Swiftline", "Parcelo", "Bluevan"];

/// What a carrier says of a parcel on its way.
pub(super) const PARCEL_STATES: [&str; 4] = ["in transit", "at the depot", "out for delivery", "delayed"];

pub(super) const MAIL_DOMAINS: [&str; 3] = ["example.org", "example.com", "example.net"];
