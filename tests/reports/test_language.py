"""Guessing a report's language, enough to count them."""

from __future__ import annotations

import pytest

from scripts.reports.language import guess_language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("There is a focal lesion in the left peripheral zone, 12 mm. No extension.", "English"),
        ("No lesion.", "English"),
        ("Läsion in der peripheren Zone links, 12 mm.", "German"),
        ("Kein Befund. Größe unauffällig.", "German"),
        ("Lésion de la zone périphérique gauche, sans extension.", "French"),
        ("Lesión en la zona periférica izquierda, no hay extensión.", "Spanish"),
        ("Lesione nella zona periferica sinistra, non di grandi dimensioni.", "Italian"),
        ("Lesão na zona periférica esquerda, sem extensão.", "Portuguese"),
        ("Laesie in de linker perifere zone, geen uitbreiding.", "Dutch"),
        ("Zmiana w strefie obwodowej po lewej stronie, bez naciekania.", "Polish"),
        ("Очаг в периферической зоне слева, 12 мм.", "Russian"),
        ("Вогнище в периферичній зоні зліва, без поширення.", "Ukrainian"),
        ("前列腺左侧外周带病灶，直径12毫米。", "Chinese"),
        ("左辺縁域に12mmの病変を認める。", "Japanese"),
        ("좌측 말초대에 12 mm 병변이 있다.", "Korean"),
        ("آفة في المنطقة المحيطية اليسرى", "Arabic or Persian"),
        ("Βλάβη στην περιφερική ζώνη αριστερά", "Greek"),
        ("נגע באזור ההיקפי השמאלי", "Hebrew"),
        ("x", "Latin script"),
        ("12 mm", "Latin script"),
        ("4 / 5", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_language_of_a_short_report(text, language):
    assert guess_language(text) == language
