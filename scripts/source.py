"""Reads source files as text for the checks in this directory: comments, string literals, test code."""

import re

# One token of Rust, Go or C in which a brace, a slash or a quote is no code: comments, strings, characters.
TOKENS = {
    "rust": re.compile(
        r'//[^\n]*|/\*.*?\*/'
        r'|(?<!\w)[bc]?r(#*)".*?"\1'
        r'|(?<!\w)[bc]?"(?:\\.|[^"\\])*"'
        r"|(?<!\w)b?'(?:\\.[^']*|[^\\'])'",
        re.S,
    ),
    "c": re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.[^\']*|[^\\\'\n])\'', re.S),
    "go": re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|`[^`]*`|\'(?:\\.[^\']*|[^\\\'\n])\'', re.S),
}
CFG_TEST = re.compile(r"#\[cfg\((?:all\(|any\()?test\b[^\]]*\]")


def blank(text):
    """Returns spaces of the same length and lines as the text."""
    return re.sub(r"[^\n]", " ", text)


def without_text(source, language="rust"):
    """Returns the source with its comments and literals blanked; every other character keeps its place."""
    return TOKENS[language].sub(lambda found: blank(found.group()), source)


def end_of_item(code, start):
    """Returns where the Rust item at `start` ends: behind its block or its semicolon."""
    depth = 0
    for place in range(start, len(code)):
        character = code[place]
        if character in "{([":
            depth += 1
        elif character in "})]":
            depth -= 1
            if depth == 0 and character == "}":
                return place + 1
        elif character == ";" and depth == 0:
            return place + 1
    return len(code)


def test_items(code):
    """Yields start and end of each item that Rust compiles for tests only; `code` is without text."""
    place = 0
    for attribute in CFG_TEST.finditer(code):
        if attribute.start() >= place:
            place = end_of_item(code, attribute.end())
            yield attribute.start(), place


def without_tests(code):
    """Returns Rust code without its test items, and the names of the modules that exist in tests only."""
    modules = set()
    for start, end in test_items(code):
        if declared := re.search(r"\bmod\s+(\w+)\s*;", code[start:end]):
            modules.add(declared.group(1))
        code = code[:start] + blank(code[start:end]) + code[end:]
    return code, modules
