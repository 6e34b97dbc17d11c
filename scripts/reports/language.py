"""Guessing a report's language, to notice early that an encoder does not know it: a count for a summary, no more.

The script tells most: Unicode names every letter by it. Languages of the Latin and Cyrillic scripts are told apart by
their most frequent words, a few of which stand in any report.
"""

from __future__ import annotations

import unicodedata
from collections import Counter

# The first word of a letter's Unicode name, and the language where one script stands for one.
SCRIPTS = {
    "LATIN": "Latin script",
    "CYRILLIC": "Cyrillic script",
    "GREEK": "Greek",
    "ARABIC": "Arabic or Persian",
    "HEBREW": "Hebrew",
    "CJK": "Chinese",
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "HANGUL": "Korean",
    "THAI": "Thai",
    "DEVANAGARI": "Hindi or another of Devanagari",
    "BENGALI": "Bengali",
    "TAMIL": "Tamil",
    "GEORGIAN": "Georgian",
    "ARMENIAN": "Armenian",
}
FREQUENT = {
    "English": "the of and with is are no in at on to from left right lesion prostate zone normal without was this",
    "German": "der die das und mit ist kein keine im in am von des zur ein eine links rechts ohne nicht bei auf läsion",
    "French": "le la les des du et avec est pas de dans au une un sans gauche droite à lésion en pour sur",
    "Spanish": "el la los las y con es no de en del una un sin izquierda derecha lesión se por para al",
    "Italian": "il la le dei e con è non di nel della del una un senza sinistra destra lesione alla in per",
    "Portuguese": "o a os as e com não de no na do da uma um sem esquerda direita lesão em dos para ao",
    "Dutch": "de het een en met is geen in van op zonder links rechts niet bij aan laesie voor te",
    "Polish": "w i z na nie jest się do po bez lewej prawej zmiana oraz od strefie",
    "Czech": "v a s na je se do po bez vlevo vpravo ložisko není od zóně ve",
    "Turkish": "ve bir ile sol sağ lezyon yok bu olan izlenmektedir mevcut zonda",
    "Swedish": "och i med är ingen på av en ett utan vänster höger inte till den det för",
    "Danish or Norwegian": "og i med er ingen på af av en et uden uten venstre højre høyre ikke til den det",
    "Hungarian": "a az és nem van egy bal jobb nélkül lézió zóna oldali",
    "Romanian": "și si cu este nu de în in la fără stânga dreapta leziune din pe o un",
    "Finnish": "ja on ei oikealla vasemmalla sekä jossa ilman muutos",
    "Indonesian or Malay": "dan di dengan tidak yang pada kanan kiri lesi ada dari",
    "Vietnamese": "và có không ở của trái phải tổn thương vùng tuyến",
    "Russian": "и в с на не из по без слева справа зоне очаг до от для железы предстательной",
    "Ukrainian": "і в з на не із без зліва справа зоні вогнище до від та є передміхурової",
}
WORDS = {language: frozenset(words.split()) for language, words in FREQUENT.items()}
CYRILLIC = ("Russian", "Ukrainian")


def guess_language(text: str) -> str:
    """The likely language of a report, its script where words do not tell, "unknown" where there is no letter.

    A report of two scripts counts as what most of its letters are; kana and Chinese characters together are Japanese.
    """
    scripts = Counter(unicodedata.name(letter, "OTHER").split()[0] for letter in text if letter.isalpha())
    if not scripts:
        return "unknown"
    if scripts["CJK"] and scripts["HIRAGANA"] + scripts["KATAKANA"] > scripts["CJK"] / 10:
        scripts["HIRAGANA"] += scripts.pop("CJK")
    most = scripts.most_common(1)[0][0]
    script = SCRIPTS.get(most, "another script")
    if most not in ("LATIN", "CYRILLIC"):
        return script
    among = [language for language in WORDS if (language in CYRILLIC) == (most == "CYRILLIC")]
    words = "".join(letter if letter.isalpha() else " " for letter in text.casefold()).split()
    counts = {language: sum(word in WORDS[language] for word in words) for language in among}
    first, second = sorted(counts.values(), reverse=True)[:2]
    return max(counts, key=counts.get) if first > second else script
