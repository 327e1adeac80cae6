"""Small changes of Python code, each of one expression or statement, at its exact place in the text.

What only speaks to people or to a type checker is left alone: docstrings, f-strings, log calls, what a `raise`
builds, annotations (but the `Field(...)` in them), decorators, `assert` and the `strict` of `zip`, which say what
cannot happen, `if TYPE_CHECKING:`, and code marked `# pragma: cuda` or `# pragma: mps`.
"""

import ast
import re
from dataclasses import dataclass

_COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: (r"is\s+not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"),
}
_ARITHMETIC = {
    ast.Add: (r"\+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: (r"\*", "+"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.Pow: (r"\*\*", "*"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: (r"\|", "&"),
}
_FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any"}
_LOGGERS = {"logger", "_log", "_logger", "log"}
_TEXTS = {"description", "help", "title"}  # keyword arguments that are only shown
_DEVICE = re.compile(r"#\s*pragma:\s*(cuda|mps)\b")
_GAP = r"[\s()\\]*"  # what may stand between an operand and its operator


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change: the bytes from `start` to `end` of a file's UTF-8 text become `replacement`."""

    operator: str
    start: int
    end: int
    replacement: str
    statement: range
    """The lines of the statement, of a compound one those of its head."""
    at_import: bool
    """The statement stands in no function: it runs when the module is imported."""

    def line(self, source: str) -> int:
        """Return the number of the line that the change begins in, from 1."""
        return source.encode()[: self.start].count(b"\n") + 1

    def apply(self, source: str) -> str:
        """Return the changed text of the file."""
        text = source.encode()
        return (text[: self.start] + self.replacement.encode() + text[self.end :]).decode()

    def before(self, source: str) -> str:
        """Return the lines that the change touches, on one line."""
        text = source.encode()
        return _one_line(text[self._low(text) : self._high(text)])

    def after(self, source: str) -> str:
        """Return what these lines become, on one line."""
        text = source.encode()
        changed = text[self._low(text) : self.start] + self.replacement.encode()
        return _one_line(changed + text[self.end : self._high(text)])

    def _low(self, text: bytes) -> int:
        return text.rfind(b"\n", 0, self.start) + 1

    def _high(self, text: bytes) -> int:
        at = text.find(b"\n", self.end)
        return len(text) if at < 0 else at

    def is_valid(self, source: str) -> bool:
        """Return whether the changed text is Python, and another program than before."""
        try:
            return ast.dump(ast.parse(self.apply(source))) != ast.dump(ast.parse(source))
        except SyntaxError:
            return False


def _one_line(text: bytes) -> str:
    return " ".join(text.decode().split())


def mutations(source: str) -> list[Mutation]:
    """List the changes of a file in the order of its text. Few are not valid: see `Mutation.is_valid`."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    return sorted(finder.found, key=lambda mutation: (mutation.start, mutation.end, mutation.operator))


class _Finder(ast.NodeVisitor):
    """It walks a module and notes the changes of each node."""

    def __init__(self, source: str):
        self.found: list[Mutation] = []
        self._text = source.encode()
        self._lines = source.split("\n")
        self._starts = [0]
        for line in self._text.split(b"\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)
        self._statement = range(0)
        self._functions: list[set[str]] = []  # the names bound so far in each function around
        self._constructor = False

    def _span(self, node: ast.AST) -> tuple[int, int]:
        start = self._starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        return start, self._starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]

    def _note(self, operator: str, start: int, end: int, replacement: str) -> None:
        self.found.append(
            Mutation(operator, start, end, replacement, self._statement, at_import=not self._functions)
        )

    def _code(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self._text[start:end].decode()

    def _swap_between(self, operator: str, left: ast.AST, right: ast.AST, pattern: str, new: str) -> None:
        """Note a change of the operator that stands between two operands."""
        low, high = self._span(left)[1], self._span(right)[0]
        if match := re.fullmatch(rf"{_GAP}({pattern}){_GAP}".encode(), self._text[low:high]):
            self._note(operator, low + match.start(1), low + match.end(1), new)

    def visit(self, node: ast.AST) -> None:
        """Walk into a node, unless it is left alone."""
        if not isinstance(node, ast.stmt):
            super().visit(node)
            return
        outer, body = self._statement, getattr(node, "body", None)
        last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
        self._statement = range(node.lineno, max(last, node.lineno) + 1)
        if not self._is_left_alone(node):
            super().visit(node)
        elif isinstance(node, ast.If):
            for statement in node.orelse:
                self.visit(statement)
        self._statement = outer

    def _is_left_alone(self, node: ast.stmt) -> bool:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in self._code(node.test):
            return True
        return any(_DEVICE.search(self._lines[number - 1]) for number in self._statement)

    # statements

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(default)
        arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        self._functions.append({argument.arg for argument in arguments})
        outer, self._constructor = self._constructor, node.name in ("__init__", "__post_init__")
        for statement in node.body:
            self.visit(statement)
        self._constructor = outer
        self._functions.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            self.visit(statement)

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_Raise(self, node: ast.Raise) -> None:
        self._remove(node)

    def visit_Break(self, node: ast.Break) -> None:
        self._remove(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self._remove(node)

    def visit_Delete(self, node: ast.Delete) -> None:
        self._remove(node)

    def _remove(self, node: ast.stmt) -> None:
        self._note("statement removed", *self._span(node), "pass")

    def visit_Expr(self, node: ast.Expr) -> None:
        call = node.value
        if isinstance(call, ast.Call):
            function = call.func
            if isinstance(function, ast.Attribute) and self._code(function.value) in _LOGGERS:
                return
            self._remove(node)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if all(self._has_value_already(target) for target in node.targets):
            self._remove(node)
        self.visit(node.value)
        self._bind(node)

    def _has_value_already(self, target: ast.expr) -> bool:
        """Return whether the program goes on without the assignment, and does not just miss a name."""
        if isinstance(target, ast.Name):
            return bool(self._functions) and target.id in self._functions[-1]
        return isinstance(target, ast.Subscript) or (isinstance(target, ast.Attribute) and not self._constructor)

    def _bind(self, node: ast.AST) -> None:
        if self._functions:
            names = (part for part in ast.walk(node) if isinstance(part, ast.Name))
            self._functions[-1] |= {name.id for name in names if isinstance(name.ctx, ast.Store)}

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        for part in ast.walk(node.annotation):
            if isinstance(part, ast.Call):
                self.visit(part)
        if node.value is not None:
            self.visit(node.value)
        self._bind(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._remove(node)
        if pair := _ARITHMETIC.get(type(node.op)):
            pattern, new = pair
            self._swap_between("arithmetic", node.target, node.value, f"{pattern}=", f"{new}=")
        self.visit(node.value)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            self._remove(node)
        elif not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self._note("result dropped", *self._span(node.value), "None")
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self._bind(node.target)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for condition in node.ifs:
            self._negate(condition)
        self.generic_visit(node)

    def _negate(self, test: ast.expr) -> None:
        inverted = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)  # their own change says the same
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], inverted):
            return
        if not (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)):
            self._note("condition negated", *self._span(test), f"(not ({self._code(test)}))")

    # expressions

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = (node.left, *node.comparators)
        for left, operator, right in zip(operands[:-1], node.ops, operands[1:], strict=True):
            self._swap_between("comparison", left, right, *_COMPARISONS[type(operator)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values[:-1], node.values[1:], strict=True):
            self._swap_between("and, or", left, right, old, new)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        pair = _ARITHMETIC.get(type(node.op))
        if pair is not None and not (isinstance(node.op, ast.BitOr) and _is_union(node)):
            self._swap_between("arithmetic", node.left, node.right, *pair)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        start, end = self._span(node)
        if match := re.match(rb"not\b\s*|-\s*", self._text[start:end]):
            self._note("sign dropped", start, start + match.end(), "")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._note("constant", *self._span(node), str(not value))
        elif isinstance(value, int | float):
            self._note("constant", *self._span(node), repr(value + 1))

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
            self._note("function", *self._span(node.func), _FUNCTIONS[node.func.id])
        for part in (node.func, *node.args):
            self.visit(part)
        idle = {"strict"} if self._code(node.func) == "zip" else _TEXTS
        for keyword in node.keywords:
            if keyword.arg not in idle:
                if keyword.arg is not None:
                    self._drop(keyword)
                self.visit(keyword.value)

    def _drop(self, keyword: ast.keyword) -> None:
        start, end = self._span(keyword)
        if after := re.match(rb"\s*,\s*", self._text[end:]):
            self._note("argument dropped", start, end + after.end(), "")
        elif before := re.search(rb",\s*$", self._text[:start]):
            self._note("argument dropped", before.start(), end, "")
        else:
            self._note("argument dropped", start, end, "")


def _is_union(node: ast.AST) -> bool:
    """Return whether `a | b` is a type: an operand is None, a class or a parametrized one."""

    def is_type(part: ast.AST) -> bool:
        name = part.id if isinstance(part, ast.Name) else part.attr if isinstance(part, ast.Attribute) else ""
        builtin = name in {"int", "str", "float", "bool", "bytes", "dict", "list", "tuple", "set"}
        return builtin or name[:1].isupper() or (isinstance(part, ast.Constant) and part.value is None)

    return any(is_type(part) for part in ast.walk(node))


def lines_of(source: str) -> dict[int, list[Mutation]]:
    """Return the changes of a file by the line that they begin in."""
    by_line: dict[int, list[Mutation]] = {}
    for mutation in mutations(source):
        by_line.setdefault(mutation.line(source), []).append(mutation)
    return by_line
