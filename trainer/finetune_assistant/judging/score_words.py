"""How judges write scores, the names of answers, and what stands between them: patterns for lower-case text with ASCII digits.

Languages are those that judges answered in so far; what none of these words covers is no score, never a wrong one. How patterns become
a verdict is in `readings`.
"""
# ruff: noqa: RUF001

import re

_NUMERALS = (
    "one eins un une uno um один",
    "two zwei deux dos due dois twee два",
    "three drei trois tres tre três drie три",
    "four vier quatre cuatro quattro quatro четыре",
    "five fünf cinq cinco cinque vijf пять",
    "six sechs seis sei zes шесть",
    "seven sieben sept siete sette sete zeven семь",
    "eight acht huit ocho otto oito восемь",
)
NUMERALS = {word: value for value, words in enumerate(_NUMERALS, start=1) for word in words.split()}

_OUT_OF = r"(?:/|out of|of|von|sur|de|su|van de|av|из|z)"
_UNITS = r"(?:\s*(?:points?|pts?\.?|punkten?|punkte|punti|puntos|pontos|punten|poäng|pkt\.?|stars?|marks?|балл\w*|分|点|點|점|puan)(?!\w))?"
DIGITS = r"[-+]?\d+(?:[.,]\d+)?"
# Three groups: the number, the best one on its scale where that is said, and a per cent sign.
NUMBER = rf"(?<![\w.,/])({DIGITS}|{'|'.join(NUMERALS)})(?![\d.]\d)(?:\s*{_OUT_OF}\s*(\d+)|\s*(%))?(?!\d){_UNITS}(?:\s*\(\d\))?"
NUMBER_END = r"(?!\w|[.,]\d|\s*[+*/%=<>]|\s*[-\u2013~]\s*\d)"
RANGE = re.compile(r"(?<![\w.])\d(?:\.\d)?\s*(?:[-\u2013~]|to|bis)\s*\d(?:\.\d)?(?![\w.])")
# "from 1 to 8", as judges repeat it before their scores.
SCALE = re.compile(r"\(?(?:from |von |de )?\b1\s*(?:-|\u2013|to|bis|through|a|à)\s*8\b\)?")

NOUNS = (
    r"(?:ai |a\.i\. |code |coding )?"
    r"(?:assistants?|answer|response|reply|model|code|solution|candidate|option|output|submission"
    r"|assistent|assistente|asistente|asistan|asystent|antwort|lösung|réponse|respuesta|risposta|resposta|odpowiedź|yanıt|antwoord|svar"
    r"|ассистент|ответ|助手|助理|回答|答案|アシスタント|어시스턴트|답변|trợ lý|βοηθόσ)"
)
_FIRST = r"(?:first|1st|erster?|erste[ns]?|première?|premier|primera?|primeiro|primeira|prima|primo|первый|第一)"
_SECOND = r"(?:second|2nd|zweiter?|zweite[ns]?|deuxième|seconde|segund[ao]|second[ao]|второй|第二)"
_ONE = rf"(?:{NOUNS}\s*#?\s*(?:1|a)(?!\w|\.\d)|\ba1\b|{_FIRST}(?!\s+(?:line|of|impression))(?:\s+(?:one|{NOUNS}))?)"
_TWO = rf"(?:{NOUNS}\s*#?\s*(?:2|b)(?!\w|\.\d)|\ba2\b|{_SECOND}(?!\s+(?:thought|line))(?:\s+(?:one|{NOUNS}))?)"
LABEL = rf"(?<!\w)(?:(?P<one>{_ONE})|(?P<two>{_TWO}))(?!\w)"
# A name that isn't known, followed by 1 or 2, or a letter: only where a line begins with it.
LINE_LABEL = re.compile(
    r"^(?:[-\d.)]+\s+)?(?:[^\W\d]+(?:\s[^\W\d]+)?\s*#?\s*(?P<number>[12])|(?:[^\W\d]+\s)?(?P<letter>[ab]))\s*[:=\u2013\u2014\u2192]\s*"
)

FINAL = r"(?:overall|final|total\w*|verdict|gesamt\w*|insgesamt|endnote|итог\w*|總分|总分|総合)"
SCORE = (
    r"(?:scores?|ratings?|rated|grades?|verdict|judge?ment|marks?|points|result|line|scale"
    r"|bewertung|punkt\w*|note|wertung|puntuación|puntaje|nota|voto|pontuação|评分|評分|分数|得分|評価|点数|оценк\w*|점수)"
)
OWN_SCORE = re.compile(rf"^(?:-\s*)?(?:({FINAL})|{SCORE})(?:\s+{SCORE})?\s*[:=\u2013-]?\s*{NUMBER}{NUMBER_END}")
CRITERIA = re.compile(r"correct|efficien|accura|comment|practice|quality|clarity|readab|style|help|korrekt|effizien|kommentar")

_GETS = (
    r"gets?|receives?|deserves?|earns?|scores?|scored|is rated|rated|krijgt|får|erhält|bekommt|obtient|reçoit|obtiene|recibe|ottiene|recebe"
    r"|получает"
)
# Between a name and its score.
GLUE = re.compile(
    r"(?:'s|\u2019s)?[\s):=(|\u2013\u2014\u2192-]*"
    rf"(?:(?:would |clearly |therefore |only )?(?:{_GETS})|(?:{FINAL}\s+)?{SCORE}|{FINAL})?(?:\s+(?:of|is))?"
    r"[\s:=(|\u2013\u2014\u2192-]*(?:an?|een|eine|une|un|una)?[\s(]*"
)
# Between a score and the name behind it.
BEHIND = re.compile(r"[\s(,\u2013-]*(?:points?\s*)?(?:for|to|goes to|für|pour|para|per)?\s*(?:the\s+)?[\s(]*")
_BETWEEN = r"\s*(?:[,;|&:]|and|und|et|y|e|en|vs\.?|versus|и|和|と)?\s*"
PAIR = re.compile(rf"{NUMBER}{_BETWEEN}{NUMBER}(?P<rest>.*)$")
BOTH = re.compile(rf"^both(?:\s+{NOUNS})?\s*(?:gets?|receive|deserve|score|are rated|:)\s*(?:an?\s+)?(?:score of\s+)?{NUMBER}{NUMBER_END}")
EACH = re.compile(rf"^{NUMBER}\s+(?:each|for both|apiece)\b")
# What may follow a score in a sentence; anything else, as in `4 functions`, says that the number is none.
FOLLOWS = (
    r"\s*(?:$|[.,;:!)\]|/\u3001\u3002\u2013\u2014-]|(?:and|while|whereas|but|because|since|for|en|und|et|y|e)\b"
    rf"|{LABEL})"
)
# In a sentence about one answer; four groups, of which the first and the last are empty.
OUT_OF_EIGHT = re.compile(rf"(?<![\w.,])()({DIGITS})\s*(?:/|out of|von|sur|de|из)\s*(8)()(?=[^\d\w\s]*$|\s*[.,;:!)])")
