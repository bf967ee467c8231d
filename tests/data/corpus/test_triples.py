"""Triples as text: sentences, a document for each subject, whatever the number of tasks."""

import json

import pytest

from jaxssl.core.errors import UserError
from jaxssl.data.corpus.sources import Triples

TSV = (
    "Paris\tcapital_of\tFrance\n"
    "Paris\tlies on\tthe Seine\n"
    "\n"
    "Rome\tcapital_of\tItaly\n"
    "Paris\tsister_city_of\tRome\n"
)


def read(path, tasks=1, **options):
    source = Triples(paths=(str(path),), **options)
    source.check()
    found, skipped = [], []
    for rank in range(tasks):
        reader = source.reader(path.parent / "aside")
        found += reader.run(None, rank, tasks)
    for file in sorted(path.parent.glob("aside-*.jsonl")):
        skipped += [json.loads(line) for line in file.read_text().splitlines()]
    return found, [(row["line"], row["reason"]) for row in skipped]


def write(tmp_path, content, name="facts.tsv"):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize("tasks", [1, 2, 3, 7, 40])
def test_the_triples_of_a_subject_that_follow_each_other_are_a_document(tmp_path, tasks):
    documents, skipped = read(write(tmp_path, TSV), tasks)
    assert [document.text for document in documents] == [
        "Paris capital of France. Paris lies on the Seine.",
        "Rome capital of Italy.",
        "Paris sister city of Rome.",
    ]
    assert [document.metadata["group"] for document in documents] == ["Paris", "Rome", "Paris"]
    assert len({document.id for document in documents}) == 3
    assert not skipped


def test_subjects_and_objects_are_marked_where_that_is_asked_for(tmp_path):
    path = write(tmp_path, TSV)
    template = "{object}: {relation} of {subject}!"
    (first, *_), _ = read(path, marked=True, template=template)
    assert first.text == "France: capital of of Paris! the Seine: lies on of Paris!"
    spans = [first.text[a:b] for a, b in first.metadata["spans"]]
    assert spans == ["France", "Paris", "the Seine", "Paris"]
    assert "spans" not in read(path)[0][0].metadata


def test_csv_has_quotes_and_a_header_names_the_columns(tmp_path):
    content = 'id,object,subject,relation\n1,"Washington, D.C.",US,has_capital\n2,Texas,US,has\n'
    documents, skipped = read(write(tmp_path, content, "facts.csv"), tasks=3, header=True)
    (document,) = documents
    assert document.text == "US has capital Washington, D.C.. US has Texas."
    assert not skipped


@pytest.mark.parametrize("tasks", [1, 3])
def test_lines_that_are_no_triple_are_set_aside_once(tmp_path, tasks):
    content = TSV.replace("\n\n", "\nParis\tcapital_of\n").replace("Italy", " ")
    documents, skipped = read(write(tmp_path, content), tasks)
    assert len(documents) == 1, "what lies between is no end of a run"
    assert skipped == [(3, "not a triple: 2 columns"), (4, "a triple without object")]


@pytest.mark.parametrize(
    "template", ["{subject} {relation}", "{subject}{relation}{object!r}", "{x", "{}"]
)
def test_a_template_that_is_none_is_refused(template):
    with pytest.raises(UserError, match="template of a triple"):
        Triples(paths=("x",), template=template)


def test_a_header_without_the_columns_is_refused(tmp_path):
    path = write(tmp_path, "head\trelation\tobject\n" + TSV)
    with pytest.raises(UserError, match="no such column") as error:
        read(path, header=True)
    assert "head, relation, object" in str(error.value)
