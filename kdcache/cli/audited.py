"""The findings of an audit, as a page for a person."""

from __future__ import annotations

from kdcache.checks import short
from kdcache.report.table import columns
from kdcache.wording import count


def audit_page(facts: dict, top: int) -> str:
    """A part for each kind of finding; of each list, the first rows."""
    wrong, hard, unstable = facts["label_errors"], facts["hardest"], facts["unstable"]
    suspects = f"{count(len(wrong['suspects']), 'suspect')} of about {wrong['estimated']:,.0f} wrong labels"
    parts = [
        head(facts),
        *map(displaced_line, facts["displaced"] or [None]),
        part(suspects, rows_table(wrong["suspects"][:top], facts["classes"])),
        part(f"{count(hard['rows'], 'hard row')}, no suspects", rows_table(hard["worst"][:top], facts["classes"])),
        part(f"{count(unstable['rows'], 'row')} whose answer changes with the view",
             rows_table(unstable["worst"][:top], facts["classes"])) if facts["views"] > 1 else "",
        part("classes that are confused", confusions_table(facts, top)),
        f"sheet: {facts['sheet']}" if "sheet" in facts else "",
    ]  # fmt: skip
    return "\n\n".join(text for text in parts if text)


def head(facts: dict) -> str:
    agree = f"label and answer agree in {percent(facts['agreement'])} of {count(facts['labelled'], 'row')}"
    return f"{facts['file']}: {agree}, {count(facts['views'], 'view')}"


def displaced_line(block: dict | None) -> str:
    """Of one block, or that there is none."""
    if block is None:
        return "no block of labels is out of place"
    agree = f"labels agree with the answers in {percent(block['agreement'])}"
    if block["elsewhere"] is not None:
        agree += f", elsewhere in {percent(block['elsewhere'])}"
    where = f"rows {block['first']:,} to {block['last']:,}"
    if block["offset"] is None:
        return f"ALARM  {where}: {agree}; shuffled, or labels of other images"
    side, rows = ("after" if block["offset"] > 0 else "before"), count(abs(block["offset"]), "row")
    fits = percent(block["agreement_at_offset"])
    return f"ALARM  {where}: {agree}; shifted: each has the label of the image {rows} {side} it ({fits} agree)"


def rows_table(rows: list[dict], classes: list[str]) -> str:
    if not rows:
        return ""
    named = any("file" in one for one in rows)
    lines = [["  row", "label", "answer", "p(label)", "p(answer)", "views", *(["file"] if named else [])]]
    for one in rows:
        label = short(classes[one["label"]], 24) if one["label"] >= 0 else "-"
        shares = [percent(one[name]) for name in ("p_label", "p_answer", "views_agreeing")]
        line = [str(one["row"]), label, short(classes[one["answer"]], 24), *shares]
        lines.append([*line, *([one.get("file", "")] if named else [])])
    return columns(lines, {0, 3, 4, 5})


def confusions_table(facts: dict, top: int) -> str:
    pairs, classes = facts["confusions"][:top], facts["classes"]
    if not pairs:
        return ""
    rows = [["  label", "answered as", "rows", "of the label"]]
    rows += [
        [
            f"  {short(classes[one['label']], 24)}",
            short(classes[one["answer"]], 24),
            f"{one['rows']:,}",
            percent(one["share"]),
        ]
        for one in pairs
    ]
    return columns(rows, {2, 3})


def part(title: str, table: str) -> str:
    return f"{title}\n{table}" if table else title


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
