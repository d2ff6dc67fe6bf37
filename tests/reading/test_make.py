"""The page: whole, self-contained, and made of the source as it stands."""
import ast
import functools
import html
import importlib
import inspect
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import sample
import train
from reading import make
from reading.equations import EQUATIONS
from reading.source import Source, departures
from reading.typeset import plain

ROOT = Path(make.__file__).parents[1]
VOID = {"meta", "img", "br", "link", "input", "hr"}


@pytest.fixture(scope="module")
def edition():
    """A Page, and what it is as a string, `edition.html`."""
    edition = make.Page()
    edition.html = str(edition)
    return edition


@pytest.fixture(scope="module")
def page(edition):
    return edition.html


@pytest.fixture(scope="module")
def sections(page):
    """The HTML of each function, by its name."""
    return dict(re.findall(r'<section class="row" id="([\w.]+)">(.*?)</section>', page, re.DOTALL))


def text_of(markup):
    return html.unescape(re.sub(r"<[^>]*>", "", markup))


def test_every_line_can_be_typeset_and_said(edition):
    """The page has typeset all of them, once for all tests."""
    for number, equation in (row for about in EQUATIONS.values()
                             for row in about.equations.items()):
        said = ""
        lines = [equation.latex] if isinstance(equation.latex, str) else equation.latex
        for line in [*lines, equation.says]:
            math = re.findall(r"\$([^$]+)\$", line) if "$" in line else [line] * (
                line in lines and bool(line) and "Algorithm" not in number)
            assert line.count("$") % 2 == 0
            for part in math:
                shown = [svg for (latex, *_), svg in edition.typeset.done.items() if latex == part]
                assert shown and all("<use" in svg for svg in shown)
                assert part.count("{") == part.count("}") and "\\" not in plain(part)
                assert not re.search("frac|sqrt[^(]", plain(part))
                said += plain(part) * (line != equation.says)
                assert not re.search(r"\\(text|underbrace|begin|bm)\b", part)       # MathJax has no
        for pair in ("()", "[]", "{}"):
            assert said.count(pair[0]) == said.count(pair[1]), said


def test_every_tag_is_closed_in_its_order_and_every_link_leads_somewhere(page):
    ids, links, addresses, errors = [], [], [], []

    class Reader(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open = []

        def handle_starttag(self, tag, attributes):
            self.handle_startendtag(tag, attributes)
            if tag not in VOID:
                self.open.append(tag)

        def handle_startendtag(self, tag, attributes):
            attributes = dict(attributes)
            ids.extend([attributes["id"]] if "id" in attributes else [])
            if "href" in attributes:
                links.append(attributes["href"])
            addresses.extend(attributes[name] for name in ("src", "srcset") if name in attributes)
            if tag in ("link", "iframe", "object", "embed", "base"):
                errors.append(tag)

        def handle_endtag(self, tag):
            if not self.open or self.open.pop() != tag:
                errors.append((tag, self.getpos()))
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not errors and not reader.open
    assert len(ids) == len(set(ids)) and len(links) > 1000
    inside = {link[1:] for link in links if link.startswith("#")}
    assert inside <= set(ids), inside - set(ids)
    outside = {link for link in links if not link.startswith("#")}
    assert outside == {about.link for about in EQUATIONS.values()}
    assert addresses and all(address.startswith("data:image/png;base64,") for address in addresses)


def test_it_loads_nothing_and_is_small(page):
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style and len(script.splitlines()) < 30
    assert not re.search(r"https?:|fetch|import\b|XMLHttp", script)
    assert len(page.encode()) < 3e6


@pytest.mark.parametrize("path", [f"{module}.py" for module in make.CORE] + [
    "papers/ddim.py", "papers/kit/analytic.py"])
def test_the_code_is_the_source_whole_with_its_line_numbers_and_functions_in_order(
        path, page, sections):
    module = path.removesuffix(".py").replace("/", ".")
    article = page.split(f'<article id="{module}">')[1].split("</article>")[0]
    source, seen = (ROOT / path).read_text(encoding="utf-8"), 0
    for numbers, code in re.findall(
            r'<div class="code"><pre class="n" aria-hidden="true">([\d\n]+)</pre><pre>(.*?)</pre>',
            article, re.DOTALL):
        numbers = list(map(int, numbers.split()))
        lines = source.splitlines()
        assert not "".join(lines[seen:numbers[0] - 1]).strip()
        assert text_of(code).split("\n") == lines[numbers[0] - 1:numbers[-1]]
        seen = numbers[-1]
    assert not "".join(lines[seen:]).strip()
    for node in ast.parse(source).body:
        inside = node.body if isinstance(node, ast.ClassDef) else []
        for inner in [node, *inside]:
            if isinstance(inner, (ast.FunctionDef, ast.ClassDef)):
                name = f"{module}.{node.name}" + f".{inner.name}" * (inner is not node)
                shown = text_of(sections[name])
                assert f" {inner.name}" in shown
                if isinstance(inner, ast.FunctionDef):
                    assert "\n".join(lines[inner.lineno - 1:inner.end_lineno]) in shown


def test_every_file_of_papers_is_there(page):
    for path in ROOT.glob("papers/**/*.py"):
        if path.name != "__init__.py":
            module = path.relative_to(ROOT).as_posix().removesuffix(".py").replace("/", ".")
            assert f'<article id="{module}">' in page and f'href="#{module}"' in page


def test_an_equation_stands_beside_its_code_and_its_tests_beneath(page, sections):
    for paper, about in EQUATIONS.items():
        for number, equation in about.equations.items():
            for name in equation.code.split():
                section = sections[name]
                assert f'href="#{make.slug(paper, number)}">{number}<small>' in section
                for line in [equation.latex] if isinstance(equation.latex, str) else equation.latex:
                    for part in re.findall(r"\$([^$]+)\$", line) if "$" in line else [
                            line] * ("Algorithm" not in number):
                        assert html.escape(plain(part)) in section
                for test in equation.tests.split():
                    file, test = make.test_path(test, equation.code)
                    at = make.slug(file, test)
                    assert f'id="{at}"' in section or f'href="#{at}"' in section
                    assert page.count(f'id="{at}"') == 1
    assert f"def {test}(" in text_of(page)


def test_what_is_the_same_lights_up_together_and_nothing_else(sections):
    section = sections["ddpm.DDPM.posterior_mean"]
    math, code = section.split('<div class="code">')
    for key in ("x_0", "x_t", "alpha_bar", "alpha", "beta", "one_minus_alpha_bar"):
        assert f'<g data-s="{key}">' in math and f'data-s="{key}">' in code, key
    assert 'alpha_bar">alpha_bar</u>, <u data-s="t">t</u> - ' in code    # at(self.alpha_bar, t - 1
    typeset = make.Typesetter({"": make.symbols()[0]})
    for latex, keys in ((r"x_{t-1}", []), (r"x \, 0", []),
                        (r"\bar\alpha_{t-1} x_t", ["alpha_bar", "t", "x_t"]),
                        (r"\tilde\beta_t", ["beta_tilde", "t"]), (r"\hat x_0", ["x_0_hat"]),
                        (r"1 - \bar\alpha_t", ["one_minus_alpha_bar", "t"]),
                        (r"\epsilon - \epsilon_\theta(x_t, t)", ["eps", "model", "x_t", "t"])):
        found = re.findall(r'data-s="(\w+)"', typeset(latex))
        assert [key for key in found if key != "t"] == [key for key in keys if key != "t"], latex
    other = sections["papers.ncsn.annealed_langevin"].split('<div class="code">')[0]
    assert "<g data-s" not in other                  # there alpha is a step size


@pytest.mark.parametrize("where, there", [
    ("ddpm.DDPM.loss", "ddpm.DDPM.q_sample"), ("train.L_simple", "ddpm.DDPM.loss"),
    ("train.train", "sample.build"), ("train.draw_batch", "data.to_model"),
    ("sample.load", "sample.process"), ("papers.ddim.sample", "papers.ddim.step"),
    ("papers.ddim.step", "papers.kit.analytic.eps_from_x_0"),
    ("papers.score_sde.VPSDE.flow", "papers.score_sde.VPSDE.k")])
def test_a_name_in_the_code_leads_to_what_it_names_and_that_says_who_uses_it(
        where, there, sections):
    name = there.rsplit(".", 1)[1]
    assert re.search(rf'<a href="#{there}"[^>]*>{name}</a>', sections[where])
    if there.split(".")[0] != "papers" or where.rsplit(".", 1)[0] == there.rsplit(".", 1)[0]:
        assert f'href="#{where}"' in sections[there].split('class="users"')[1]


def test_what_may_be_any_of_several_is_no_link(page, sections):
    assert "omega" in sections["papers.star_shaped.Star.posterior"]
    assert 'omega"' not in sections["papers.star_shaped.Star.posterior"].split('class="users"')[0]
    assert 'href="#ddpm.DDPM">ddpm<' not in page and ">self</a>" not in page
    ddim = page.split('<article id="papers.ddim">')[1]
    assert '<b>from</b> <a href="#sample">sample</a> <b>import</b>' in ddim.split("</section>")[0]


def test_letters_that_stand_for_something_else_and_keywords_do_not_light_up(sections):
    assert 'data-s="model"' in sections["papers.ddim.encode"]
    for name, key in (("papers.ddim.slerp", "alpha_bar"), ("papers.ddim.encode", "sigma"),
                      ("papers.ncsn.dsm_loss", "sigma"), ("papers.score_distillation.loss", "z"),
                      ("unet.group_norm", "eps")):
        assert f'data-s="{key}"' not in sections[name], name
    guided = sections["papers.classifier_free_guidance.guided"].split('<div class="code">')[0]
    assert 'data-s="x_t"' in guided and 'data-s="alpha"' not in guided   # of z_lambda; alpha_lambda


@pytest.mark.parametrize("name, test", [
    ("papers.score_sde.heun", "the_flow_moves_the_density_as_the_fokker_planck_equation_says"),
    ("papers.score_sde.VPSDE.flow", "the_ode_keeps_quantiles_and_order_and_its_error_is_of_first_"),
    ("train.train", "training_times_cover_exactly_1_to_T_and_differ_within_a_batch"),
    ("ddpm.DDPM.draw_t", "a_step_is_warmed_up_clipped_adam_and_its_ema")])
def test_a_test_that_never_comes_to_a_function_does_not_prove_it(name, test, sections):
    proved, _, other = sections[name].partition("of the same equation")
    assert test.replace("_", " ") in other and test.replace("_", " ") not in proved


def test_every_function_of_an_equation_is_proved_by_a_test_that_comes_to_it(edition):
    for about in EQUATIONS.values():
        for number, equation in about.equations.items():
            tests = [make.test_path(test, equation.code) for test in equation.tests.split()]
            for name in equation.code.split():
                assert any(name in edition.called(*test) for test in tests), (number, name)


def test_a_browser_shows_all_of_a_test_that_is_linked_and_of_an_equation(page):
    assert not re.search(r"<details[^>]* id=", page)          # what holds the target opens
    for block in page.split('<div class="eq" style="--widest:')[1:]:
        widest = float(block.split('"')[0])
        lines = block.split("</a>", 1)[1].split("<p>")[0]
        assert all(float(width) <= widest < 33 for width in re.findall(r"width:([\d.]+)em", lines))


def test_intros_have_lists_and_who_uses_a_function_is_a_link(page, sections):
    intro = page.split('<article id="papers.score_sde">')[1].split("</section>")[0]
    assert intro.count("<li>") > 1 and "<p>- " not in page
    users = sections["ddpm.DDPM.q_sample"].split('class="users"')[1].split("</details>")[0]
    assert users.count('href="#papers.') > 3


def test_the_notation_says_where_each_symbol_is(page):
    rows = page.split('<section id="notation"')[1].split("</section>")[0].split("<tr>")[2:]
    assert 'href="#ddpm.DDPM.p_sample"' in rows[-1]
    before, = (row for row in rows if "alpha_bar[t - 1]" in row)
    assert 'href="#ddpm.DDPM.posterior_mean"' in before and "q_sample" not in before
    without = page.split("Here without an equation: ")[1].split("</p>")[0]
    assert "papers/kit/judge.py" in without and "papers/ddim.py" not in without


def test_departures_stand_where_they_happen_and_in_the_list(page, sections):
    found = {(piece.name, text) for path in ("ddpm.py", "unet.py", "papers/repaint.py")
             for piece, text in departures(Source(path))}
    assert {name for name, _ in found} >= {"ddpm", "ddpm.DDPM.estimate_x_0", "unet",
                                           "unet.timestep_embedding", "papers.repaint"}
    for name in ("ddpm.DDPM.estimate_x_0", "ddpm.DDPM.loss", "ddpm.DDPM.p_sample",
                 "papers.ddim.step", "ddpm.DDPM.reverse_process", "ddpm.DDPM.posterior_sample"):
        assert "<aside>" in sections[name], name
    assert "<aside>" not in sections["papers.dps.sample"]            # a list of arguments is none
    assert not re.search(r"<aside><b>Paper and code</b>(Lugmayr|The authors' own|Ho et)", page)
    final = page.split('<section id="departures"')[1]
    for name, _ in found:
        assert f'href="#{name}"' in final
    assert "Clipping is not in the paper's Algorithm 2" in text_of(final)
    assert "The authors' own networks" not in text_of(final)         # nor is a first paragraph
    assert "is clipped to [-1, 1]" in text_of(final)                 # from README


def test_the_shapes_of_the_u_are_those_of_the_network_that_ships(sections):
    _, _, model = sample.load(sample.SHIPPED)
    picture = sections["unet.UNet.forward"]
    for block in model.down:
        kind = type(block).__name__
        assert f">{kind}<" in picture or f">{kind}, attention<" in picture
    assert "1 x 16 x 16 &rarr; 32 x 16 x 16" in picture and "128 x 4 x 4 &rarr;" in picture
    assert picture.count("Upsample</text>") == 2 and picture.count(">64 x 4 x 4</text>") == 2


@pytest.mark.parametrize("road", make.ROADS)
def test_a_road_is_passed_through_in_its_order(road, flags, tmp_path):
    places, calls = [], []
    for name, _ in make.ROADS[road][1]:
        module, *parts = name.split(".")
        value = functools.reduce(getattr, parts, importlib.import_module(module))
        places.append(inspect.unwrap(value).__code__)
    assert len(places) in (10, 11)

    def see(frame, event, _):
        if event == "call" and frame.f_code in places and frame.f_code not in calls:
            calls.append(frame.f_code)

    def walk(main, argv):
        before = sys.getprofile()
        sys.setprofile(see)
        try:
            main(argv)
        finally:
            sys.setprofile(before)
    walk(train.main, flags())
    if "sample" in road:
        calls.clear()
        checkpoint = str(tmp_path / "run" / "checkpoint.pt")
        walk(sample.main, ["--checkpoint", checkpoint, "--n", "2", "--device", "cpu", "--out",
                           str(tmp_path / "samples.png")])
    assert [code.co_name for code in calls] == [code.co_name for code in places]
    assert calls == places


def test_nothing_else_knows_that_it_exists():
    for path in ROOT.glob("**/*.py"):
        if path.relative_to(ROOT).parts[0] not in ("reading", "tests"):
            assert not re.search(r"^\s*(import|from) reading\b", path.read_text(encoding="utf-8"),
                                 re.MULTILINE), path


@pytest.mark.thorough
def test_the_command_writes_the_same_page_again(tmp_path, capsys, page):
    make.main(["--out", str(tmp_path / "a.html")])
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == page
    assert "MB" in capsys.readouterr().out and len(list(tmp_path.iterdir())) == 1


@pytest.mark.thorough
@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium")
def test_a_browser_opens_it_without_a_word(tmp_path, page):
    path = tmp_path / "page.html"
    at = make.slug("tests/test_ddpm.py", "test_iterating_eq_2_gives_eq_4")
    count = ("[...document.querySelectorAll('html, .eq > div, .eq > ol')]"
             ".filter(part => part.scrollWidth > part.clientWidth + 1).length")
    path.write_text(page.replace(
        "</body>", f"<script>document.title = {count} + ' stick out';</script></body>"))
    for width in (1400, 1290, 500):
        result = subprocess.run(
            ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom",
             "--enable-logging=stderr", "--virtual-time-budget=5000", f"--window-size={width},900",
             f"--user-data-dir={tmp_path / 'profile'}", f"{path.as_uri()}#{at}"],
            capture_output=True, text=True, timeout=120)
        assert "CONSOLE" not in result.stderr and "<title>0 stick out</title>" in result.stdout
        assert re.search(rf'<details[^>]* open=""><summary>[^<]*</summary><p class="at" id="{at}"',
                         result.stdout)
