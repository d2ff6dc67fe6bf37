"""A formula, and what is got from it by the slips that are made when it is written down.

The right formula stands in a check once, as text.  If an answer is none of its values, every slip
of the kinds below is tried, and that which gives the answer is named: a root left out or taken too
many, one coefficient in the place of another, a sign, a factor, two variables exchanged, a time
that is off by one.
"""
import ast
import copy
from itertools import combinations

import torch

NAMES = {"alpha_bar": "alpha_bar_t", "before": "alpha_bar_{t-1}", "alpha": "alpha_t",
         "beta": "beta_t", "alpha_bar_s": "alpha_bar_s", "alpha_before": "alpha_{t-1}",
         "beta_before": "beta_{t-1}", "beta_tilde": "beta_tilde_t"}


class Formula:
    """text: as "alpha_bar ** 0.5 * x_0"; in it `before` is alpha_bar_{t-1}.

    coefficients: called with a number to be added to t, gives {name: value} of those in NAMES.
    variables: {name: value} of all else in the text.
    """

    def __init__(self, text, coefficients=None, **variables):
        self.tree, self.at = ast.parse(text, mode="eval").body, coefficients or (lambda shift: {})
        self.coefficients, self.variables = self.at(0), variables

    @property
    def value(self):
        return self.of(self.tree, self.coefficients | self.variables)

    def of(self, tree, names):
        expression = ast.fix_missing_locations(ast.Expression(tree))
        return eval(compile(expression, "formula", "eval"), {"torch": torch}, dict(names))

    def slips(self):
        """Yield (what was done wrong, the result of it)."""
        own = self.coefficients | self.variables
        for shift, words in ((-1, "t - 1"), (1, "t + 1")):
            if any(node.id in self.coefficients for node in self.names()):
                yield (f"when t is off by one: {words} stands where t belongs; index t of every "
                       "coefficient is time t", self.of(self.tree, self.at(shift) | self.variables))
        for words, tree in self.rewritten():
            yield f"when {words}", self.of(tree, own)
        yield "when the sign is wrong", -self.value
        yield "when it is twice as much", 2 * self.value
        yield "when it is half as much", self.value / 2
        for name, value in self.variables.items():
            yield f"when {name} is returned as it is", value

    def names(self):
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.Name)
                and node.id != "torch"]

    def rewritten(self):
        """Yield (words, tree) of the formula rewritten: all at once, then one place at a time."""
        there = sorted({node.id for node in self.names()})
        coefficients = [name for name in there if name in self.coefficients]
        roots = [n for n, node in enumerate(ast.walk(self.tree)) if is_root(node)]
        if len(roots) > 1:
            yield "the square roots are missing", self.edited(dict.fromkeys(roots, unrooted))
        for n in roots:
            inner = list(ast.walk(self.tree))[n].left
            yield f"the square root of {said(inner)} is missing", self.edited({n: unrooted})
        for old in coefficients:
            places = [n for n, node in enumerate(ast.walk(self.tree))
                      if isinstance(node, ast.Name) and node.id == old]
            for new in self.coefficients:
                if new != old:
                    words = f"{NAMES[new]} stands where {NAMES[old]} belongs"
                    put = renamed(new)
                    yield words, self.edited(dict.fromkeys(places, put))
                    for n in places if len(places) > 1 else ():
                        yield f"{words}, in {self.around(n)}", self.edited({n: put})
        variables = [name for name in there if name in self.variables]
        for one, two in (*combinations(variables, 2), *combinations(coefficients, 2)):
            yield f"{NAMES.get(one, one)} and {NAMES.get(two, two)} are exchanged", self.edited({
                n: renamed(two if node.id == one else one)
                for n, node in enumerate(ast.walk(self.tree))
                if isinstance(node, ast.Name) and node.id in (one, two)})
        for n, node in enumerate(ast.walk(self.tree)):
            if isinstance(node, ast.BinOp):
                yield from ((words, self.edited({n: put})) for words, put in misreadings(node))
            if isinstance(node, ast.Name) and node.id in self.coefficients:
                yield (f"sqrt({NAMES[node.id]}) stands where {NAMES[node.id]} belongs",
                       self.edited({n: rooted}))
        for new in self.coefficients:
            for n in roots:
                root = said(list(ast.walk(self.tree))[n])
                yield f"{NAMES[new]} stands where {root} belongs", self.edited({n: renamed(new)})

    def around(self, n):
        """Write the smallest term, power or function that holds a place in ast.walk."""
        place = list(ast.walk(self.tree))[n]
        return said(next(node for node in ast.walk(self.tree)
                         if any(child is place for child in ast.iter_child_nodes(node))))

    def edited(self, changes):
        """Copy the tree with some nodes, {place in ast.walk: function of the node}, replaced."""
        tree = copy.deepcopy(self.tree)
        return Edit({id(node): changes[n] for n, node in enumerate(ast.walk(tree))
                     if n in changes}).visit(tree)


class Edit(ast.NodeTransformer):
    def __init__(self, puts):
        self.puts = puts                             # {id of a node: function of the node}

    def visit(self, node):
        put = self.puts.get(id(node), lambda node: node)
        return put(self.generic_visit(node))


def is_root(node):
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and \
        isinstance(node.right, ast.Constant) and node.right.value == 0.5


def is_product(node):
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)


def unrooted(node):
    return node.left


def rooted(node):
    return ast.BinOp(node, ast.Pow(), ast.Constant(0.5))


def renamed(name):
    return lambda node: ast.Name(name, ast.Load())


def misreadings(node):
    """Yield (words, function of the node) for a sum, a difference, a product or a quotient."""
    def with_op(op):
        return lambda node: ast.BinOp(node.left, op(), node.right)

    left, right = said(node.left), said(node.right)
    if isinstance(node.op, (ast.Add, ast.Sub)) and is_product(node.left) and is_product(node.right):
        one, two = node.left.left, node.right.left
        yield (f"the factors {said(one)} and {said(two)} are exchanged", lambda node: ast.BinOp(
            ast.BinOp(two, ast.Mult(), node.left.right), node.op,
            ast.BinOp(one, ast.Mult(), node.right.right)))
    if isinstance(node.op, ast.Add):
        yield f"{right} is subtracted and not added", with_op(ast.Sub)
        yield f"{right} is left out", lambda node: node.left
        yield f"{left} is left out", lambda node: node.right
    elif isinstance(node.op, ast.Sub):
        yield f"{right} is added and not subtracted", with_op(ast.Add)
        yield f"{right} is left out", lambda node: node.left
        yield f"sqrt({said(node)}) stands where {said(node)} belongs", rooted
        if isinstance(node.left, ast.Constant):
            yield f"{right} stands where {said(node)} belongs", lambda node: node.right
    elif isinstance(node.op, ast.Mult):
        yield f"the factor {left} is missing", lambda node: node.right
        yield f"the factor {right} is missing", lambda node: node.left
        yield f"it is divided by {left} and not multiplied", lambda node: ast.BinOp(
            node.right, ast.Div(), node.left)
    elif isinstance(node.op, ast.Div):
        yield f"the division by {right} is missing", lambda node: node.left
        yield f"it is multiplied by {right} and not divided", with_op(ast.Mult)
        yield f"{left} / {right} is upside down", lambda node: ast.BinOp(
            node.right, ast.Div(), node.left)
    elif isinstance(node.op, ast.Pow) and getattr(node.right, "value", 0) == 2:
        yield f"{left} is not squared", unrooted


class Spoken(ast.NodeTransformer):
    def visit_BinOp(self, node):
        self.generic_visit(node)
        return ast.Call(ast.Name("sqrt"), [node.left], []) if is_root(node) else node

    def visit_Name(self, node):
        return ast.Name(NAMES.get(node.id, node.id))


def said(node):
    """Write a part of a formula as one would say it: sqrt(alpha_bar_t) * x_0."""
    return ast.unparse(Spoken().visit(copy.deepcopy(node)))
