"""
As much of Go's templates as our chart uses, so that it can be rendered where there is no Helm.

    {{ .Values.a.b }}   {{ $.Release.Name }}   {{ . }}   {{ printf "x%s" . }}
    {{ add .Values.n 1 }}
    | quote   | nindent N   toYaml .Values.a   if … end   range … end   {{- eats space before it

What it does not know it refuses.
"""

import json
import re

import yaml

_TAG = re.compile(r"(\s*)\{\{(-?)\s*(.*?)\s*\}\}")


def render(text, scope):
    """The text with every tag replaced.  Raises ValueError for one that is not known."""
    pieces, rest = _block(_tokens(text), scope, scope)
    if rest:
        raise ValueError(f"an end too many, before {rest[:2]}")
    return "".join(pieces)


def _tokens(text):
    at, found = 0, []
    for tag in _TAG.finditer(text):
        found.append(("text", text[at : tag.start()] + ("" if tag[2] else tag[1])))
        found.append(("tag", tag[3]))
        at = tag.end()
    return [*found, ("text", text[at:])]


def _block(tokens, scope, top):
    """Pieces up to the end that belongs to it, and the tokens after that."""
    pieces = []
    while tokens:
        (kind, what), tokens = tokens[0], tokens[1:]
        if kind == "text":
            pieces.append(what)
        elif what == "end":
            return pieces, tokens
        elif what.startswith(("if ", "range ")):
            word, _, about = what.partition(" ")
            value = _value(about, scope, top)
            scopes = ([scope] if value else []) if word == "if" else value
            inside = tokens
            _, tokens = _block(inside, scope, top) if not scopes else ([], tokens)
            for each in scopes:
                told, tokens = _block(inside, each, top)
                pieces += told
        else:
            pieces.append(_piped(what, scope, top))
    return pieces, []


def _piped(what, scope, top):
    first, *filters = (part.strip() for part in what.split("|"))
    value = _value(first, scope, top)
    for each in filters:
        name, _, argument = each.partition(" ")
        if name == "quote":
            value = json.dumps(str(value))
        elif name == "nindent":
            lines = str(value).splitlines()
            value = "".join("\n" + " " * int(argument) + line for line in lines)
        else:
            raise ValueError(f"filter {name!r}")
    return str(value)


def _value(expression, scope, top):
    if expression.startswith("toYaml "):
        return yaml.safe_dump(_value(expression[7:], scope, top)).rstrip()
    if found := re.fullmatch(r'printf "(.*)" (\S+)', expression):
        return found[1] % _value(found[2], scope, top)
    if found := re.fullmatch(r"add (\S+) (\d+)", expression):
        return _value(found[1], scope, top) + int(found[2])
    if not re.fullmatch(r"\$?(\.\w*)+", expression):
        raise ValueError(f"expression {expression!r}")
    value = top if expression.startswith("$") else scope
    for name in filter(None, expression.removeprefix("$").split(".")):
        value = value[name]
    return value
