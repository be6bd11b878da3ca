"""The words of the demo's micro-world, in five real languages.

Every row holds one meaning; its columns are the languages in the order of :data:`LANGUAGES`. To add a language, add a
column here and its sentence patterns in :mod:`icr_platform.demo.world`. French uses the narrow no-break space (U+202F)
before ``!``, ``?`` and ``:``, as its typography asks.
"""

from typing import NamedTuple

LANGUAGES = ("en", "es", "de", "fr", "ru")
"""Codes of the world's languages; English is the one that preferences are given in."""


class Phrase(NamedTuple):
    """One meaning in each of the world's languages."""

    en: str
    es: str
    de: str
    fr: str
    ru: str

    def in_language(self, language: str) -> str:
        """The phrase in `language` (a code of :data:`LANGUAGES`)."""
        return self[LANGUAGES.index(language)]


class Category(NamedTuple):
    """A class of things: its name ("an animal"), how to ask for three of them, a fact about it, and its members."""

    name: Phrase
    three: Phrase
    fact: Phrase
    members: tuple[Phrase, ...]


class ColouredThing(NamedTuple):
    """A thing of one colour. `genders` are its genders in Spanish, French and Russian, for the adjective's agreement."""

    colour: str
    genders: str
    name: Phrase


CATEGORIES = {
    "animal": Category(
        name=Phrase("an animal", "un animal", "ein Tier", "un animal", "животное"),
        three=Phrase("three animals", "tres animales", "drei Tiere", "trois animaux", "три животных"),
        fact=Phrase(
            "All animals need food and water.",
            "Todos los animales necesitan comida y agua.",
            "Alle Tiere brauchen Futter und Wasser.",
            "Tous les animaux ont besoin de manger et de boire.",
            "Всем животным нужны еда и вода.",
        ),
        members=(
            Phrase("a dog", "un perro", "ein Hund", "un chien", "собака"),
            Phrase("a cat", "un gato", "eine Katze", "un chat", "кошка"),
            Phrase("a horse", "un caballo", "ein Pferd", "un cheval", "лошадь"),
            Phrase("a cow", "una vaca", "eine Kuh", "une vache", "корова"),
            Phrase("a bird", "un pájaro", "ein Vogel", "un oiseau", "птица"),
        ),
    ),
    "fruit": Category(
        name=Phrase("a fruit", "una fruta", "eine Frucht", "un fruit", "фрукт"),
        three=Phrase("three fruits", "tres frutas", "drei Früchte", "trois fruits", "три фрукта"),
        fact=Phrase(
            "Fruits are healthy and taste good.",
            "Las frutas son sanas y saben bien.",
            "Früchte sind gesund und schmecken gut.",
            "Les fruits sont sains et ont bon goût.",
            "Фрукты очень полезны и вкусны.",
        ),
        members=(
            Phrase("an apple", "una manzana", "ein Apfel", "une pomme", "яблоко"),
            Phrase("a banana", "un plátano", "eine Banane", "une banane", "банан"),
            Phrase("an orange", "una naranja", "eine Orange", "une orange", "апельсин"),
            Phrase("a pear", "una pera", "eine Birne", "une poire", "груша"),
            Phrase("a lemon", "un limón", "eine Zitrone", "un citron", "лимон"),
        ),
    ),
    "vehicle": Category(
        name=Phrase("a vehicle", "un vehículo", "ein Fahrzeug", "un véhicule", "транспортное средство"),
        three=Phrase(
            "three vehicles", "tres vehículos", "drei Fahrzeuge", "trois véhicules", "три транспортных средства"
        ),
        fact=Phrase(
            "Vehicles carry people from place to place.",
            "Los vehículos llevan gente de un lugar a otro.",
            "Fahrzeuge bringen Menschen von Ort zu Ort.",
            "Les véhicules transportent les gens partout.",
            "Транспорт перевозит людей с места на место.",
        ),
        members=(
            Phrase("a car", "un coche", "ein Auto", "une voiture", "машина"),
            Phrase("a bus", "un autobús", "ein Bus", "un autobus", "автобус"),
            Phrase("a train", "un tren", "ein Zug", "un train", "поезд"),
            Phrase("a bicycle", "una bicicleta", "ein Fahrrad", "un vélo", "велосипед"),
            Phrase("a plane", "un avión", "ein Flugzeug", "un avion", "самолёт"),
        ),
    ),
    "tool": Category(
        name=Phrase("a tool", "una herramienta", "ein Werkzeug", "un outil", "инструмент"),
        three=Phrase("three tools", "tres herramientas", "drei Werkzeuge", "trois outils", "три инструмента"),
        fact=Phrase(
            "Tools help people with their work.",
            "Las herramientas ayudan en el trabajo.",
            "Werkzeuge helfen Menschen bei der Arbeit.",
            "Les outils aident les gens dans leur travail.",
            "Инструменты помогают людям в работе.",
        ),
        members=(
            Phrase("a hammer", "un martillo", "ein Hammer", "un marteau", "молоток"),
            Phrase("a saw", "una sierra", "eine Säge", "une scie", "пила"),
            Phrase("a screwdriver", "un destornillador", "ein Schraubenzieher", "un tournevis", "отвёртка"),
            Phrase("a shovel", "una pala", "eine Schaufel", "une pelle", "лопата"),
            Phrase("a drill", "un taladro", "eine Bohrmaschine", "une perceuse", "дрель"),
        ),
    ),
    "furniture": Category(
        name=Phrase("a piece of furniture", "un mueble", "ein Möbelstück", "un meuble", "предмет мебели"),
        three=Phrase(
            "three pieces of furniture", "tres muebles", "drei Möbelstücke", "trois meubles", "три предмета мебели"
        ),
        fact=Phrase(
            "Furniture makes a home comfortable.",
            "Los muebles hacen cómoda una casa.",
            "Möbel machen ein Zuhause gemütlich.",
            "Les meubles rendent la maison confortable.",
            "Мебель делает любой дом уютным.",
        ),
        members=(
            Phrase("a table", "una mesa", "ein Tisch", "une table", "стол"),
            Phrase("a chair", "una silla", "ein Stuhl", "une chaise", "стул"),
            Phrase("a bed", "una cama", "ein Bett", "un lit", "кровать"),
            Phrase("a wardrobe", "un armario", "ein Schrank", "une armoire", "шкаф"),
            Phrase("a sofa", "un sofá", "ein Sofa", "un canapé", "диван"),
        ),
    ),
}

COLOURS = {
    # Forms that differ by gender are written masculine/feminine(/neuter).
    "yellow": Phrase("yellow", "amarillo/amarilla", "gelb", "jaune", "жёлтый/жёлтая/жёлтое"),
    "red": Phrase("red", "rojo/roja", "rot", "rouge", "красный/красная/красное"),
    "green": Phrase("green", "verde", "grün", "vert/verte", "зелёный/зелёная/зелёное"),
    "white": Phrase("white", "blanco/blanca", "weiß", "blanc/blanche", "белый/белая/белое"),
    "blue": Phrase("blue", "azul", "blau", "bleu/bleue", "синий/синяя/синее"),
    "black": Phrase("black", "negro/negra", "schwarz", "noir/noire", "чёрный/чёрная/чёрное"),
    "grey": Phrase("grey", "gris", "grau", "gris/grise", "серый/серая/серое"),
}

COLOURED_THINGS = (
    ColouredThing("yellow", "mfm", Phrase("the banana", "el plátano", "die Banane", "la banane", "банан")),
    ColouredThing("yellow", "mmm", Phrase("the lemon", "el limón", "die Zitrone", "le citron", "лимон")),
    ColouredThing("yellow", "mmn", Phrase("the sun", "el sol", "die Sonne", "le soleil", "солнце")),
    ColouredThing("red", "mfm", Phrase("the tomato", "el tomate", "die Tomate", "la tomate", "помидор")),
    ColouredThing("red", "fmf", Phrase("blood", "la sangre", "das Blut", "le sang", "кровь")),
    ColouredThing("red", "fff", Phrase("the strawberry", "la fresa", "die Erdbeere", "la fraise", "клубника")),
    ColouredThing("green", "fff", Phrase("grass", "la hierba", "das Gras", "l'herbe", "трава")),
    ColouredThing("green", "mmm", Phrase("the cucumber", "el pepino", "die Gurke", "le concombre", "огурец")),
    ColouredThing("green", "fff", Phrase("the frog", "la rana", "der Frosch", "la grenouille", "лягушка")),
    ColouredThing("white", "ffm", Phrase("snow", "la nieve", "der Schnee", "la neige", "снег")),
    ColouredThing("white", "fmn", Phrase("milk", "la leche", "die Milch", "le lait", "молоко")),
    ColouredThing("white", "fmf", Phrase("salt", "la sal", "das Salz", "le sel", "соль")),
    ColouredThing("blue", "mmn", Phrase("the sky", "el cielo", "der Himmel", "le ciel", "небо")),
    ColouredThing("blue", "mfn", Phrase("the sea", "el mar", "das Meer", "la mer", "море")),
    ColouredThing("black", "mmm", Phrase("coal", "el carbón", "die Kohle", "le charbon", "уголь")),
    ColouredThing("black", "mmm", Phrase("the raven", "el cuervo", "der Rabe", "le corbeau", "ворон")),
    ColouredThing("grey", "mmm", Phrase("the elephant", "el elefante", "der Elefant", "l'éléphant", "слон")),
    ColouredThing("grey", "mff", Phrase("the mouse", "el ratón", "die Maus", "la souris", "мышь")),
)

COLOUR_FACT = Phrase(
    "This colour is easy to see in daylight.",
    "Este color se ve bien a la luz del día.",
    "Diese Farbe sieht man gut bei Tageslicht.",
    "Cette couleur se voit bien en plein jour.",
    "Этот цвет хорошо виден при дневном свете.",
)

OPPOSITES = (
    (Phrase("big", "grande", "groß", "grand", "большой"), Phrase("small", "pequeño", "klein", "petit", "маленький")),
    (Phrase("hot", "caliente", "heiß", "chaud", "горячий"), Phrase("cold", "frío", "kalt", "froid", "холодный")),
    (Phrase("fast", "rápido", "schnell", "rapide", "быстрый"), Phrase("slow", "lento", "langsam", "lent", "медленный")),
    (Phrase("long", "largo", "lang", "long", "длинный"), Phrase("short", "corto", "kurz", "court", "короткий")),
    (Phrase("good", "bueno", "gut", "bon", "хороший"), Phrase("bad", "malo", "schlecht", "mauvais", "плохой")),
    (Phrase("clean", "limpio", "sauber", "propre", "чистый"), Phrase("dirty", "sucio", "schmutzig", "sale", "грязный")),
    (Phrase("heavy", "pesado", "schwer", "lourd", "тяжёлый"), Phrase("light", "ligero", "leicht", "léger", "лёгкий")),
    (Phrase("full", "lleno", "voll", "plein", "полный"), Phrase("empty", "vacío", "leer", "vide", "пустой")),
)

OPPOSITE_FACT = Phrase(
    "The two words have opposite meanings.",
    "Las dos palabras tienen sentidos opuestos.",
    "Die Wörter haben gegensätzliche Bedeutungen.",
    "Les deux mots ont des sens opposés.",
    "Эти слова противоположны по смыслу.",
)

POLITE_OPENERS = (
    Phrase("Of course!", "¡Claro que sí!", "Natürlich!", "Bien sûr\u202f!", "Конечно!"),
    Phrase("Good question!", "¡Buena pregunta!", "Gute Frage!", "Bonne question\u202f!", "Хороший вопрос!"),
    Phrase("With pleasure!", "¡Con mucho gusto!", "Sehr gerne!", "Avec plaisir\u202f!", "С удовольствием!"),
)

RUDE_OPENERS = (
    Phrase("This bores me.", "Esto me aburre.", "Das langweilt mich.", "Cela m'ennuie.", "Мне скучно."),
    Phrase("You again?", "¿Otra vez tú?", "Du schon wieder?", "Encore toi\u202f?", "Опять вы?"),
    Phrase("Oh well, maybe.", "Bueno, quizás.", "Na ja, vielleicht.", "Bof, peut-être.", "Ну, может быть."),
)

CLOSINGS = (
    Phrase(
        "I hope this helps!",
        "¡Espero que te ayude!",
        "Ich hoffe, das hilft!",
        "J'espère que cela t'aide\u202f!",
        "Надеюсь, это поможет!",
    ),
    Phrase(
        "Ask me again any time!",
        "¡Pregunta cuando quieras!",
        "Frag mich jederzeit wieder!",
        "N'hésite pas à demander\u202f!",
        "Спрашивайте в любое время!",
    ),
)

RAMBLINGS = (
    Phrase(
        "By the way, I am tired today.",
        "Por cierto, hoy tengo sueño.",
        "Übrigens bin ich heute müde.",
        "Au fait, j'ai sommeil aujourd'hui.",
        "Кстати, я сегодня хочу спать.",
    ),
    Phrase(
        "The weather is bad again.",
        "Otra vez hace mal tiempo.",
        "Das Wetter ist wieder schlecht.",
        "Il fait encore mauvais temps.",
        "Погода сегодня опять плохая.",
    ),
    Phrase(
        "I do not want to work.",
        "No tengo ganas de trabajar.",
        "Ich will nicht arbeiten.",
        "Je ne veux pas travailler.",
        "Я совсем не хочу работать.",
    ),
    Phrase(
        "Nobody really cares about that.",
        "Eso no le importa a nadie.",
        "Das ist doch allen egal.",
        "Cela n'intéresse personne.",
        "Это никому не интересно.",
    ),
)

THANKS = Phrase("Thank you!", "¡Gracias!", "Danke!", "Merci\u202f!", "Спасибо!")
