"""Reads PromQL with a real parser: which series an expression asks for, by which labels."""

from collections.abc import Iterator
from typing import Any

import promql_parser

EQUALS = promql_parser.MatchOp.Equal


def parse(expression: str) -> Any:
    """The syntax tree. Raises ValueError."""
    return promql_parser.parse(expression)


def selectors(node: Any) -> Iterator[Any]:
    """All vector selectors below a node."""
    match node:
        case promql_parser.VectorSelector():
            yield node
        case promql_parser.MatrixSelector():
            yield node.vector_selector
        case promql_parser.Call():
            for argument in node.args:
                yield from selectors(argument)
        case promql_parser.BinaryExpr():
            yield from selectors(node.lhs)
            yield from selectors(node.rhs)
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            return
        case _:  # aggregation, parentheses, sign, subquery
            yield from selectors(node.expr)


def grouped_labels(node: Any) -> Iterator[str]:
    """Labels that aggregations and vector matches name."""
    modifier = getattr(node, "modifier", None)
    if isinstance(node, promql_parser.AggregateExpr) and modifier:
        yield from modifier.labels
    match node:
        case promql_parser.Call():
            for argument in node.args:
                yield from grouped_labels(argument)
        case promql_parser.BinaryExpr():
            yield from grouped_labels(node.lhs)
            yield from grouped_labels(node.rhs)
        case _ if hasattr(node, "expr"):
            yield from grouped_labels(node.expr)


def matched_labels(selector: Any) -> dict[str, str]:
    """label -> value, for those that are matched by `=`; others with an empty value."""
    matchers = selector.matchers.matchers
    return {each.name: each.value if each.op == EQUALS else "" for each in matchers}
