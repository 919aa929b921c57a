"""The parsers of the public sources: from the files of one source to rows in Cendol's schema.

Every parser takes the files of a source, by their paths in its repository, and yields a `Pair` for each row. Where a
source has texts and no prompts, the prompts are ours, in several wordings; which of them a text gets depends on the
text alone.
"""

import ast
import csv
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

Files = Mapping[str, bytes]


class Pair(NamedTuple):
    """What a parser makes of a text: the prompt, the answer, and the name of the template that wrote the prompt."""

    input: str
    output: str
    template: str


_READING = (
    "{passage}\n\nPertanyaan: {question}",
    "{question}\n\n{passage}",
    "Baca teks ini, lalu jawab pertanyaannya.\n\n{passage}\n\n{question}",
    "Jawab pertanyaan berikut berdasarkan teks di bawahnya.\n\n{question}\n\n{passage}",
)
_ARTICLE = (
    "Tulis satu paragraf ensiklopedia yang menjawab pertanyaan ini: {question}",
    "{question} Jawablah dengan satu paragraf yang lengkap.",
    "Saya sedang mencari informasi. {question} Tolong jelaskan selengkapnya.",
    "Jelaskan dalam satu paragraf: {question}",
)
_CONTINUE = (
    "Lanjutkan paragraf ensiklopedia ini.\n\n{start}",
    "Tulis kelanjutan teks berikut: {start}",
    "Paragraf ini belum selesai. Tolong teruskan.\n\n{start}",
)
_POEM_KIND = (
    "Buatkan saya sebuah {kind}.",
    "Tolong tuliskan satu {kind}!",
    "Saya butuh {kind}. Bisa bantu membuatnya?",
    "Berikan contoh {kind}.",
)
_POEM_START = (
    'Buatlah pantun yang diawali baris "{line}".',
    "Lanjutkan menjadi sebuah pantun: {line}",
    'Saya punya baris pertama: "{line}". Jadikan pantun, ya.',
)
_COMMAND = (
    "Bagaimana cara menggunakan perintah {name}{place}?",
    "Apa kegunaan perintah {name}{place}, dan bagaimana contoh pemakaiannya?",
    "Tolong ajari saya memakai {name}{place}.",
)
_HOW = (
    "Bagaimana cara {task}? ({topic})",
    "Saya ingin {task}. Apa langkah-langkahnya? ({topic})",
    "Tolong jelaskan cara {task}. ({topic})",
)
_ASKED = ("{heading} ({topic})", "{topic}: {heading}")
_ABOUT = (
    'Jelaskan tentang "{heading}". ({topic})',
    'Apa yang perlu saya ketahui tentang "{heading}"? ({topic})',
    'Tolong uraikan bagian "{heading}". ({topic})',
)

#: Words that Indonesian, or English, can hardly do without.
_INDONESIAN = {"yang", "dan", "di", "untuk", "dengan", "dari", "ini", "itu", "pada", "dalam", "atau", "tidak", "adalah"}
_ENGLISH = {"the", "and", "of", "to", "in", "is", "that", "for", "with", "this", "are", "you", "be", "it", "on", "can"}
#: Where a passage is longer, its question and answer would be cut by a training on 2,048 tokens.
_LONGEST_PASSAGE = 4_000
#: Headings that begin with a verb, and so name a task; the others are no verbs.
_VERB = re.compile(r"(?!Mengapa|Mengenai|Menurut|Melalui)Me[mnlrw][a-z]{4,}")


def _pair(output: str, template: str, wordings: Sequence[str], **texts: str) -> Pair:
    """A pair whose prompt is one of the wordings, filled in; equal texts get the same one."""
    which = zlib.crc32("\n".join(texts.values()).encode()) % len(wordings)
    return Pair(wordings[which].format(**texts), output, f"{template}_{which + 1}")


def prompts_and_answers(files: Files) -> Iterator[Pair]:
    """CSV with the columns Prompt and Answer: the rows that Cendol's authors wrote of its identity and its safety."""
    for data in files.values():
        for row in csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")):
            yield Pair(row["Prompt"].strip(), row["Answer"].strip(), "as_written")


def safe_responses(files: Files) -> Iterator[Pair]:
    """IndoSafety's training sheet: a risky prompt, and a safe response to it."""
    for row in _sheet_rows(files):
        yield Pair(row.get("prompt", "").strip(), row.get("safe_response", "").strip(), "as_written")


def judged_responses(files: Files) -> Iterator[Pair]:
    """A model's responses to IndoSafety's prompts: those in which the rubrics of its authors find no fault."""
    for row in _sheet_rows(files):
        response = next((value for name, value in row.items() if name.endswith("_response")), "")
        faults = [value.strip().lower() for name, value in row.items() if name.startswith("Rubric")]
        if "tidak" in faults and set(faults) <= {"tidak", ""}:
            yield Pair(row.get("prompt", "").strip(), _tidy_lines(_plain(response)), "as_written")


def labelled_answers(files: Files) -> Iterator[Pair]:
    """FacQA: questions and passages as lists of tokens; B and I label the tokens of the answer."""
    for data in files.values():
        for row in csv.DictReader(io.StringIO(data.decode("utf-8"), newline="")):
            question, passage, labels = (ast.literal_eval(row[name]) for name in ("question", "passage", "seq_label"))
            answer = [token for token, label in zip(passage, labels, strict=True) if label in ("B", "I")]
            # An answer in two places cannot be read as one.
            if answer and labels.count("B") == 1:
                asked = _sentence(question)
                asked = asked if asked.endswith("?") else f"{asked}?"
                yield _pair(_sentence(answer), "closed_qa", _READING, question=asked, passage=_sentence(passage))


def questions_on_passages(files: Files) -> Iterator[Pair]:
    """IDK-MRC's questions that their passage answers."""
    for passage, answered in _passages(files):
        for question, answer in answered:
            yield _pair(answer, "closed_qa", _READING, question=question, passage=passage)


def passages(files: Files) -> Iterator[Pair]:
    """IDK-MRC's passages of Wikipedia: one for the first question it answers, and one for its own first sentence."""
    for passage, answered in _passages(files):
        if len(passage) < 120:
            continue
        if answered:
            yield _pair(passage, "article", _ARTICLE, question=answered[0][0])
        start, _, rest = re.sub(r"(?<=[a-z\d)]{3}[.!?]) (?=[A-Z])", "\0", passage, count=1).partition("\0")
        if len(start) >= 40 and len(rest) >= 80:
            yield _pair(rest, "continue", _CONTINUE, start=start)


def _passages(files: Files) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Each passage once, with its questions that it answers, and their answers."""
    found: dict[str, list[tuple[str, str]]] = {}
    for data in files.values():
        for paragraph in json.loads(data):
            passage = _tidy(re.sub(r"\[\d+\]", "", paragraph["context"]))
            if len(passage) > _LONGEST_PASSAGE:
                continue
            answered = found.setdefault(passage, [])
            for asked in paragraph["qas"]:
                if asked["answers"] and not asked["is_impossible"]:
                    question = re.sub(r"\s+\?", "?", _tidy(asked["question"]))
                    answered.append((question, _tidy(re.sub(r"\[\d+\]", "", asked["answers"][0]["text"]))))
    yield from found.items()


def pantun(files: Files) -> Iterator[Pair]:
    """CSV with pantun (teks) and their kind (tipe): one row asks for the kind, and one gives the first line."""
    for data in files.values():
        for row in csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")):
            lines = [_tidy(line) for line in row["teks"].replace("\\n", "\n").split("\n")]
            lines = [line for line in lines if line.strip(" .,")]
            kind = _tidy(row["tipe"]).lower()
            if len(lines) < 2 or "jawa" in kind:
                continue
            text = "\n".join(lines)
            yield _pair(text, "poem_by_kind", _POEM_KIND, kind=kind)
            yield _pair(text, "poem_by_line", _POEM_START, line=lines[0].rstrip(" .,;"))


def command_pages(files: Files) -> Iterator[Pair]:
    """Pages of tldr: what a command does, and examples of its use."""
    for path, data in files.items():
        name, about, examples = "", [], []
        for line in data.decode("utf-8").splitlines():
            if line.startswith("# "):
                name = line[2:].strip()
            elif line.startswith("> ") and not re.match("> (Informasi lebih|Lihat juga|More information)", line):
                about.append(line[2:].strip())
            elif line.startswith("- "):
                examples.append(line[2:].strip().rstrip(":"))
            elif line.startswith("`") and examples:
                command = line.strip().strip("`")
                examples[-1] += ":\n" + re.sub(r"\{\{(.*?)\}\}", r"\1", command)
        # A page of one example sends its reader to another page.
        if name and len(examples) > 1:
            platform = path.split("/")[-2]
            place = "" if platform == "common" else f" di {_PLATFORMS.get(platform, platform)}"
            numbered = "\n".join(f"{number}. {example}" for number, example in enumerate(examples, 1))
            text = " ".join(about) + "\n\n" + numbered
            if _is_indonesian(re.sub(r"^[^\d].*$", "", numbered, flags=re.MULTILINE) + " ".join(about)):
                yield _pair(text.strip(), "command", _COMMAND, name=name, place=place)


_PLATFORMS = {
    "osx": "macOS",
    "linux": "Linux",
    "windows": "Windows",
    "android": "Android",
    "freebsd": "FreeBSD",
    "netbsd": "NetBSD",
    "openbsd": "OpenBSD",
    "sunos": "SunOS",
    "cisco-ios": "Cisco IOS",
    "dos": "DOS",
}


def guides(topic: str) -> Callable[[Files], Iterator[Pair]]:
    """A parser of guides in Markdown about one topic: a row for each section that is Indonesian prose."""

    def parse(files: Files) -> Iterator[Pair]:
        for data in files.values():
            for title, heading, body in _sections(data.decode("utf-8", errors="replace")):
                about = topic if title == heading else f"{topic}: {title}"
                yield _guide(body, heading, about)

    return parse


def _guide(body: str, heading: str, topic: str) -> Pair:
    """What is under a heading, and a request for it."""
    if heading.endswith("?"):
        return _pair(body, "guide_question", _ASKED, heading=heading, topic=topic)
    task = re.sub("^(Bagaimana )?[Cc]ara ", "", heading)
    if task != heading or _VERB.match(heading):
        task = task[0].lower() + task[1:] if task[1:2].islower() else task
        return _pair(body, "guide_task", _HOW, task=task.rstrip("."), topic=topic)
    return _pair(body, "guide_section", _ABOUT, heading=heading, topic=topic)


def _sections(text: str) -> Iterator[tuple[str, str, str]]:
    """Title of the page, heading and text of each section of a Markdown page that can be an answer."""
    text = text.replace("\r\n", "\n").removeprefix("\ufeff")
    front = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    named = re.search(r"^title: *(.+)$", front[1], re.MULTILINE) if front else None
    title = _tidy(named[1].strip().strip("'\"")) if named else ""
    text = text[front.end() :] if front else text
    # What is in a block of code is no heading, whatever it begins with.
    pieces = re.split(r"^(#{1,4}) +(.+)$", _without_code(text), flags=re.MULTILINE)
    for level, heading, body in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        if re.search(r"^ *\|", body, re.MULTILINE):
            # A table, which plain text would not show.
            continue
        heading, body = _heading(heading), _tidy_lines(_plain(body))
        title = heading if level == "#" or not title else title
        if heading and 150 <= len(body) <= 3_000 and not body.endswith(":") and _is_indonesian(body):
            yield title, heading, body


def _without_code(text: str) -> str:
    text = re.sub(r"<(Sandpack|Diagram|script|style|iframe|svg)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r"\{% raw %\}.*?\{% endraw %\}", "", text, flags=re.DOTALL)
    return re.sub(r"^ *(```|~~~).*?^ *\1 *$", "", text, flags=re.DOTALL | re.MULTILINE)


def _heading(text: str) -> str:
    return _tidy(_plain(re.sub(r"\{/?\*.*?\*/?\}|\{#.*?\}", "", text)).replace("`", "").replace("*", "")).rstrip("#: ")


def _plain(text: str) -> str:
    """Markdown without what only a browser can use: links keep their text, pictures and tags go."""
    text = re.sub(r"<!--.*?-->|\{/\*.*?\*/\}|\{%.*?%\}", "", text, flags=re.DOTALL)
    text = re.sub(r":::.*?:::|^ *> *\[!\w+\].*$|\[!(INCLUDE|include).*?\]\(.*?\)", "", text, flags=re.MULTILINE)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)\s]*(?: \"[^\"]*\")?\)", r"\1", text)
    # A tag in code is its subject.
    text = re.sub(r"(`[^`\n]*`)|</?[A-Za-z][^<>\n]*>", r"\1", text)
    return text.replace("&nbsp;", " ").replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&").replace("**", "")


def _tidy_lines(text: str) -> str:
    """Without spaces at the ends of lines, signs of quotation, rules, and more than one empty line at a time."""
    lines = [re.sub(r"^( *)> ?", r"\1", line).rstrip() for line in text.split("\n")]
    # Which products a page of Microsoft's is about, before its text.
    dropped = re.compile(r"[-*_ ]{3,}|\]|[_*]*(Berlaku untuk|Berlaku Untuk|Applies To).*")
    lines = [line for line in lines if not dropped.fullmatch(line)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _tidy(text: str) -> str:
    return " ".join(text.split())


def _sentence(tokens: Sequence[str]) -> str:
    """Tokens as running text: no space before what ends a phrase, or after what opens one."""
    text = re.sub(r" ([,.;:?!%)\]])", r"\1", " ".join(tokens))
    text = re.sub(r"([(\[]) ", r"\1", text)
    return re.sub(r"(?<=\w) ([-/]) (?=\w)", r"\1", text).strip()


def _is_indonesian(text: str) -> bool:
    words = re.findall(r"[a-z]+", text.lower())
    indonesian, english = (sum(word in common for word in words) for common in (_INDONESIAN, _ENGLISH))
    return indonesian >= 3 and indonesian > 3 * english and indonesian >= 0.05 * len(words)


_SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def _sheet_rows(files: Files) -> Iterator[dict[str, str]]:
    """The rows below the first of each workbook's first sheet, by the names in that first row."""
    for data in files.values():
        with zipfile.ZipFile(io.BytesIO(data)) as book:
            shared = []
            if "xl/sharedStrings.xml" in book.namelist():
                items = ElementTree.fromstring(book.read("xl/sharedStrings.xml")).iter(f"{_SHEET}si")
                shared = ["".join(text.text or "" for text in item.iter(f"{_SHEET}t")) for item in items]
            sheet = ElementTree.fromstring(book.read("xl/worksheets/sheet1.xml"))
        names: dict[str, str] = {}
        for row in sheet.iter(f"{_SHEET}row"):
            cells = {re.sub(r"\d", "", cell.get("r", "")): _cell(cell, shared) for cell in row}
            if names:
                yield {name: cells.get(column, "") for column, name in names.items()}
            else:
                names = cells


def _cell(cell: Any, shared: Sequence[str]) -> str:
    value = cell.findtext(f"{_SHEET}v") or ""
    if cell.get("t") == "s":
        return shared[int(value)]
    return "".join(text.text or "" for text in cell.iter(f"{_SHEET}t")) or value


#: By the names that the table of sources uses.
PARSERS: dict[str, Callable[[Files], Iterator[Pair]]] = {
    "prompts_and_answers": prompts_and_answers,
    "safe_responses": safe_responses,
    "judged_responses": judged_responses,
    "labelled_answers": labelled_answers,
    "questions_on_passages": questions_on_passages,
    "passages": passages,
    "pantun": pantun,
    "command_pages": command_pages,
    "guides_to_react": guides("React"),
    "guides_to_vue": guides("Vue.js"),
    "guides_to_open_source": guides("Proyek sumber terbuka"),
    "guides_to_microsoft_365": guides("Microsoft 365"),
    "guides_to_project_operations": guides("Dynamics 365 Project Operations"),
    "guides_to_customer_insights": guides("Dynamics 365 Customer Insights"),
}
