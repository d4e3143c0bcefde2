"""Whether Python code does the same for every input, and nothing but compute: what a recording rests on.

Few things are allowed, and all else is refused: assignments to names, loops, calls, arithmetic, branches on
attributes of the module alone, names that stand for functions, classes and constants.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import enum
import functools
import inspect
import operator
import textwrap
import threading
import tokenize
import warnings
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import fx, nn


class Unproven(Exception):
    """Why something about a model cannot be relied upon."""


_ALLOWED = (
    ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign, ast.AugAssign, ast.AnnAssign,
    ast.Expr, ast.For, ast.If, ast.IfExp, ast.Pass, ast.Continue, ast.Assert, ast.Name, ast.Attribute,
    ast.Call, ast.keyword, ast.Constant, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Tuple,
    ast.List, ast.Dict, ast.Starred, ast.Subscript, ast.Slice, ast.ListComp, ast.GeneratorExp,
    ast.comprehension, ast.JoinedStr, ast.FormattedValue, ast.expr_context, ast.operator, ast.unaryop,
    ast.boolop, ast.cmpop,
)  # fmt: skip
_BUILTINS = frozenset(
    ("abs", "bool", "dict", "enumerate", "float", "int", "isinstance", "len", "list", "max", "min", "range",
     "reversed", "round", "slice", "str", "sum", "super", "tuple", "zip")
)  # fmt: skip
_QUESTIONS = ("isinstance", "bool")
_PACKAGES = ("torch", "math", "operator", "_operator", "typing", "collections")
# Attributes by which code reaches what a recording does not show: storage, modes, all weights, random state.
_REACHING = frozenset(
    ("data", "grad", "requires_grad", "eval", "train", "parameters", "buffers", "modules", "children",
     "apply", "state_dict", "load_state_dict", "seed", "backward", "compile", "random", "utils", "backends")
)  # fmt: skip
_REACHING_AT_FIRST = ("__", "set_", "register_", "named_", "manual_seed", "requires_grad")
# Functions of modules that tell of a state, such as torch.is_grad_enabled and torch.get_default_dtype, which
# a recording would take for a constant; and those of such names that tell of the tensors they are given.
_ASKING = ("is_", "are_", "get_", "has_", "current_", "default_", "device_count", "initial_seed")
_OF_ARGUMENTS = frozenset(
    ("is_complex", "is_conj", "is_floating_point", "is_inference", "is_neg", "is_nonzero", "is_same_size",
     "is_scripting", "is_signed", "get_device")
)  # fmt: skip
_FUTURES = functools.reduce(
    operator.or_, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)
# Of two threads that silence warnings, one may leave the other's silence for good; and where two parse, the
# SystemError "AST constructor recursion depth mismatch" may end it (Python 3.11).
_ONE_AT_A_TIME = threading.Lock()
# What inspect and Python's parser raise of files that are gone, cut off or another's by now.
_NOT_AT_HAND = (OSError, TypeError, ValueError, IndexError, SyntaxError, tokenize.TokenError)
CONSTANTS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


def check_code(code: CodeType, names: Mapping[str, Any]) -> tuple[ast.AST, list[ast.AST]]:
    """The code's tree, and what in it decides on its way; ``names`` are its globals and what it encloses.

    Raises:
        Unproven: it may do something else another time, or more than compute.
    """
    who = f"{code.co_name}, which runs in the forward,"
    tree = _tree(code)
    decisions: list[ast.AST] = []
    for node in body(tree):
        if not isinstance(node, _ALLOWED):
            raise Unproven(f"{who} does more than compute ({type(node).__name__})")
        tests = _tests(node)
        if not all(map(_asks_only_self, tests)):
            raise Unproven(f"{who} branches on more than attributes")
        decisions += tests
        if reason := _more_than_computing(node, code, names):
            raise Unproven(f"{who} does more than compute ({reason})")
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            _check_name(node.id, code, names, who)
    return tree, decisions


def _tree(code: CodeType) -> ast.Module:
    """What the code was compiled from.

    Raises:
        Unproven: it is not at hand. Of a file that was edited since, the same lines may hold anything.
    """
    try:
        lines, _ = inspect.findsource(code)
        with _ONE_AT_A_TIME:
            if code in _compiled("".join(lines), code.co_filename, code.co_flags & _FUTURES):
                return ast.parse(textwrap.dedent(inspect.getsource(code)))
    except _NOT_AT_HAND:
        pass
    raise Unproven(f"the source of {code.co_name}, which runs in the forward, is not at hand")


@functools.lru_cache(maxsize=32)
def _compiled(source: str, file: str, flags: int) -> frozenset[CodeType]:
    """All functions of a file, or of a notebook's cell, which is compiled statement by statement, and may
    await: a call of what the same text imports is other code."""
    flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    found: set[CodeType] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whoever imported it has had them
        tree = compile(source, file, "exec", flags=flags | ast.PyCF_ONLY_AST, dont_inherit=True)
        parts = [tree, *(ast.Module([statement], []) for statement in tree.body)]
        waiting = [compile(part, file, "exec", flags=flags, dont_inherit=True) for part in parts]
    while waiting:
        code = waiting.pop()
        found.add(code)
        waiting += [value for value in code.co_consts if isinstance(value, CodeType)]
    return frozenset(found)


def body(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those of decorators and annotations, which do not run in the call."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for field, value in ast.iter_fields(node):
            if field in (
                "decorator_list",
                "annotation",
                "returns",
                "type_comment",
                "defaults",
                "kw_defaults",
            ):
                continue
            waiting += [
                part for part in (value if isinstance(value, list) else [value]) if isinstance(part, ast.AST)
            ]


def _tests(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.comprehension):
        return list(node.ifs)
    if isinstance(node, ast.If | ast.IfExp | ast.Assert):
        return [node.test]
    if isinstance(node, ast.BoolOp):
        return [node]
    if isinstance(node, ast.Call) and getattr(node.func, "id", None) in _QUESTIONS:
        return list(node.args)
    if isinstance(node, ast.Compare) and any(isinstance(o, ast.Is | ast.IsNot) for o in node.ops):
        return [node]
    return []


def _asks_only_self(test: ast.AST) -> bool:
    names = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}
    return names <= {"self"} and not any(isinstance(node, ast.Call) for node in ast.walk(test))


def _more_than_computing(node: ast.AST, code: CodeType, names: Mapping[str, Any]) -> str | None:
    """What a statement or expression does besides."""
    if isinstance(node, ast.Attribute) and _asks_for_state(node.attr) and _is_of_module(node, names):
        return node.attr
    if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
        return "writes into an attribute or element"
    if isinstance(node, ast.Attribute) and (
        node.attr in _REACHING or node.attr.startswith(_REACHING_AT_FIRST)
    ):
        return node.attr
    if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
        called = node.value.func if isinstance(node.value, ast.Call) else None
        if not isinstance(called, ast.Attribute):
            return "a result is dropped"
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        own = isinstance(called.value, ast.Name) and called.value.id in set(code.co_varnames) - set(arguments)
        if not called.attr.endswith("_") and not (called.attr in ("append", "extend") and own):
            return "a result is dropped"
    return None


def _asks_for_state(name: str) -> bool:
    return name.startswith(_ASKING) and name not in _OF_ARGUMENTS


def _is_of_module(node: ast.AST, names: Mapping[str, Any]) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and isinstance(names.get(node.id), ModuleType)


def _check_name(name: str, code: CodeType, names: Mapping[str, Any], who: str) -> None:
    if name in code.co_varnames or name in code.co_cellvars or name == "__class__":
        return
    if name not in names:
        if hasattr(builtins, name) and name not in _BUILTINS:
            raise Unproven(f"{who} does more than compute ({name})")
        return  # a builtin that is allowed, or a name of a comprehension
    if not _stays(names[name]):
        raise Unproven(f"{who} uses {name}, which may change")


def _stays(value: Any) -> bool:
    """Whether a global or enclosed value is something that code merely uses."""
    if isinstance(value, fx.Proxy):
        return True  # a tensor of the function around it, which is in the recording
    if isinstance(value, ModuleType):
        return value.__name__.split(".")[0] in _PACKAGES
    package = (getattr(value, "__module__", None) or "").split(".")[0]
    asks = _asks_for_state(getattr(value, "__name__", ""))
    if isinstance(value, BuiltinFunctionType | FunctionType) and asks and package in ("", *_PACKAGES):
        return False
    if isinstance(value, BuiltinFunctionType):
        of_module = isinstance(value.__self__, ModuleType | type | type(None))
        return package == "torch" or (of_module and package in ("builtins", *_PACKAGES))
    if isinstance(value, FunctionType):  # what is not torch's own is looked into when it is called
        return package == "torch" or not hasattr(value, "__wrapped__")
    return isinstance(value, type | enum.Enum) or _is_constant(value)


def _is_constant(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_constant, value))
    return isinstance(value, CONSTANTS) or getattr(value, "__module__", "") in ("typing", "torch")


# --- attributes that code reads -----------------------------------------------------------------------------

OTHER, MODULE, METHOD, TENSOR = "<anything else>", "<a module>", "<a method>", "<a tensor>"
SAME = " is "


def paths(tree: ast.AST, name: str) -> Iterator[str]:
    """The attributes of ``name`` that are read, as ``"conv.weight.shape"``."""
    for node in ast.walk(tree):
        path, value = [], node
        while isinstance(value, ast.Attribute):
            path.append(value.attr)
            value = value.value
        if path and isinstance(value, ast.Name) and value.id == name:
            yield ".".join(reversed(path))


def plain(module: nn.Module, path: str) -> Any:
    """The attribute in a form that can be compared, kept and pickled; OTHER where there is none.

    Of a path such as ``"act2 is act1"``: whether both are one object.
    """
    first, same, second = path.partition(SAME)
    value = _attribute(module, first)
    if same:
        return value is _attribute(module, second)
    return plain_attribute(path.rpartition(".")[2], value)


def plain_attribute(name: str, value: Any) -> Any:
    return tuple(value) if name == "_modules" else plainly(value)


def _attribute(module: nn.Module, path: str) -> Any:
    value: Any = module
    for name in path.split("."):
        value = getattr(value, name, OTHER)
    return value


def plainly(value: Any, depth: int = 0) -> Any:
    if depth > 8 or isinstance(value, fx.Proxy):
        return OTHER
    if depth and isinstance(value, nn.Module | torch.Tensor):
        return OTHER  # what a graph calls by its name may be exchanged there and not in this container
    if type(value) in CONSTANTS[:-1]:
        return value
    if isinstance(value, nn.ModuleList | nn.ModuleDict | nn.Sequential):
        return MODULE, tuple(value._modules)
    if isinstance(value, nn.ParameterList | nn.ParameterDict):
        return MODULE, tuple(value) if isinstance(value, nn.ParameterDict) else len(value)
    if isinstance(value, nn.Module):
        return MODULE
    if isinstance(value, torch.Tensor):
        return TENSOR
    if inspect.isroutine(value):
        # Not the methods themselves: each holds whose it is, here of a copy of the model. Nor their
        # functions: pickle does not find every method by its name.
        if isinstance(getattr(value, "__self__", None), ModuleType | type(None)):
            return value
        names = (getattr(value, name, None) for name in ("__module__", "__qualname__"))
        return METHOD, *names, getattr(getattr(value, "__code__", None), "co_name", None)
    if isinstance(value, type):
        return value
    inside: Any
    if isinstance(value, tuple | list):
        inside = tuple(plainly(item, depth + 1) for item in value)
    elif isinstance(value, dict):
        inside = tuple(plainly(item, depth + 1) for item in value.items())
    elif isinstance(value, set | frozenset):
        inside = frozenset(plainly(item, depth + 1) for item in value)
    elif hasattr(value, "func") and hasattr(value, "keywords"):  # functools.partial
        inside = plainly((value.func, value.args, value.keywords), depth + 1)
    elif type(value).__name__ in ("SimpleNamespace", "Namespace") or hasattr(value, "__dataclass_fields__"):
        inside = plainly(dict(vars(value)), depth + 1)
    else:
        return OTHER
    return OTHER if inside == OTHER or OTHER in inside else inside
