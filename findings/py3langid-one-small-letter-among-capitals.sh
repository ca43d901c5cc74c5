#!/usr/bin/env bash
# A sentence in capitals is English; with one product's name in its usual letters it is Sesotho.
#
# Guess: how a sentence is written decides nothing, as the same sentence in capitals and in small letters has the very same score: the
# detector ignores case.
# Seen (py3langid 0.4.0): it lowers a text only if all of it is in capitals. One small letter leaves the rest as it is, and capitals are
# rare in what the model has learnt: the language is another one, at a probability near 0. Lowering every text before helps.
source "$(dirname "$0")/_common"
environment env py3langid==0.4.0
expect "$("$work/env/bin/python" <<'PYTHON'
from py3langid.langid import MODEL_FILE, LanguageIdentifier

identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
TEXT = "COMPARE IPHONE AND ANDROID FOR A STUDENT WHO LIKES TO READ AND WRITE"
for text in (TEXT, TEXT.lower(), TEXT.replace("IPHONE", "iPhone"), TEXT.replace("IPHONE", "iPhone").lower()):
    language, probability = identifier.classify(text)
    print(f"{language} {probability:.2f} {text[:24]}")
PYTHON
)" "en 0.98 COMPARE IPHONE AND ANDRO
en 0.98 compare iphone and andro
st 0.03 COMPARE iPhone AND ANDRO
en 0.98 compare iphone and andro"
