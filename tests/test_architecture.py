"""The shape of the program, read from its source: who may import whom, and who may do what."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from keap_connect.keap.answers import GrantType

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "keap_connect"

# A part may import itself and the parts of the lines below its own, never one beside or above it.
LAYERS = [
    {"__main__"},
    {"application"},
    {"web", "api", "cli"},
    {"server", "database_copy"},
    {"health", "key_rotation", "emergency_stop", "backup"},
    {"jobs", "notifications"},
    {"refresh"},
    {"connect", "access", "deployment"},
    {"accounts"},
    {"events"},
    {"keap", "models", "services", "engine", "plain_reads", "logs", "supervisor"},
    {"settings", "crypto", "database", "durable_files", "spreadsheet", "counters"},
    {"addresses"},
    {"errors", "clock", "signals", "answer_limit", "background"},
]
# Programs of their own: `make run`, and the other party of the protocol.
PROGRAMS = {"launch": {"settings", "durable_files", "errors", "signals"}, "sandbox": set()}


@dataclass(frozen=True)
class Module:
    """One source file. Those outside the package, such as app.py, have no part of their own."""

    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All of its tree, walked once for all rules."""
        return list(ast.walk(self.tree))

    @property
    def name(self) -> str:
        """Its path below the package, such as ``keap/transport.py``."""
        return self.path.relative_to(PACKAGE).as_posix()

    @property
    def part(self) -> str:
        """The folder or file directly below the package that it belongs to."""
        return self.path.relative_to(PACKAGE).parts[0].removesuffix(".py")

    def imports(self) -> Iterator[tuple[str, str]]:
        """Give each imported module with each name taken from it; the name is empty for a plain `import`."""
        for node in self.nodes:
            if isinstance(node, ast.Import):
                yield from ((alias.name, "") for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from ((node.module or "", alias.name) for alias in node.names)

    def own_imports(self) -> Iterator[str]:
        """Give the parts of this package that it imports."""
        for module, name in self.imports():
            path = f"{module}.{name}" if module == "keap_connect" else module
            if path.startswith("keap_connect."):
                yield path.split(".")[1]

    def calls(self) -> Iterator[ast.Call]:
        return (node for node in self.nodes if isinstance(node, ast.Call))

    def names(self) -> set[str]:
        """Return every name and attribute in it."""
        found = {node.id for node in self.nodes if isinstance(node, ast.Name)}
        found |= {node.attr for node in self.nodes if isinstance(node, ast.Attribute)}
        return found | {name for _, name in self.imports()}

    def texts(self) -> list[str]:
        """Return every text in it, docstrings aside."""
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docstrings = {
            id(node.body[0].value)
            for node in self.nodes
            if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
        }
        constants = (node for node in self.nodes if isinstance(node, ast.Constant))
        return [one.value for one in constants if isinstance(one.value, str) and id(one) not in docstrings]


MODULES = [
    Module(path) for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py" or path.parent != PACKAGE
]
APP = [module for module in MODULES if module.part not in PROGRAMS]
OUTSIDE = [Module(path) for path in [ROOT / "app.py", *sorted((ROOT / "migrations").rglob("*.py"))]]


def breaking(rule, modules=APP):
    """Return the files that break a rule."""
    return sorted(module.path.relative_to(ROOT).as_posix() for module in modules if rule(module))


# Arrows


def test_every_part_has_its_place_in_the_order():
    assert {module.part for module in MODULES} == set().union(*LAYERS) | set(PROGRAMS)
    assert sum(map(len, LAYERS)) == len(set().union(*LAYERS))


def test_imports_point_one_way():
    rank = {part: number for number, layer in enumerate(LAYERS) for part in layer}
    turned = {
        f"{module.name} imports {imported}"
        for module in APP
        for imported in module.own_imports()
        if imported != module.part and rank.get(imported, -1) <= rank[module.part]
    }

    assert turned == set()


@pytest.mark.parametrize("root", [ROOT, ROOT / "clients/python"], ids=["the app", "the client"])
def test_no_modules_import_each_other_in_a_circle(root):
    package = PACKAGE if root == ROOT else root / "keap_connect_client"
    names = {path: ".".join(path.relative_to(root).with_suffix("").parts) for path in package.rglob("*.py")}
    imported = {
        name: {one for module, what in Module(path).imports() for one in (module, f"{module}.{what}")}
        & set(names.values())
        for path, name in names.items()
    }

    TopologicalSorter(imported).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize(("program", "allowed"), PROGRAMS.items())
def test_a_program_of_its_own_shares_next_to_nothing(program, allowed):
    imported = {part for module in MODULES if module.part == program for part in module.own_imports()}

    assert imported - {program} <= allowed


@pytest.mark.parametrize("program", PROGRAMS)
def test_nobody_imports_a_program_of_its_own(program):
    others = [module for module in MODULES if module.part != program]

    assert breaking(lambda module: program in module.own_imports(), others + OUTSIDE) == []


def test_only_the_server_and_the_command_line_import_the_wiring():
    def imports_the_wiring(module):
        return any(name == "keap_connect.application" for name, _ in module.imports())

    assert breaking(imports_the_wiring, MODULES + OUTSIDE) == ["app.py", "keap_connect/__main__.py"]


def test_the_protocol_knows_no_web_framework_and_no_database():
    foreign = ("flask", "werkzeug", "sqlalchemy", "flask_sqlalchemy", "alembic")

    assert breaking(lambda one: one.part == "keap" and any(n.split(".")[0] in foreign for n, _ in one.imports())) == []


def test_the_account_rules_know_no_request_and_no_page():
    pages = {"request", "session", "g", "render_template", "redirect", "url_for", "flash", "Blueprint"}

    def takes_part_in_pages(module):
        return any(name == "flask" and taken in pages for name, taken in module.imports())

    assert {Path(path).parts[1] for path in breaking(takes_part_in_pages)} == {"web", "api"}


def test_pages_hold_no_query():
    def queries(module):
        taken = {taken for name, taken in module.imports() if name.split(".")[0] == "sqlalchemy" and "exc" not in name}
        return module.part in {"web", "api", "cli"} and taken

    assert breaking(queries) == []


# Who may do what


def test_only_the_settings_read_the_environment():
    def reads_the_environment(module):
        return module.names() & {"environ", "environb", "getenv", "dotenv_values", "load_dotenv"}

    # They write what a library reads only there: oauthlib, and libpq.
    writers = {f"keap_connect/{name}.py" for name in ("engine", "keap/transport")}
    # What the others read is the environ of WSGI.
    wsgi = {f"keap_connect/{name}.py" for name in ("api/auth", "api/tokens", "server/front", "web/browser_security")}
    expected = {"keap_connect/settings.py"} | writers | wsgi
    assert set(breaking(reads_the_environment)) == expected


def test_the_transport_sets_one_variable_and_reads_none():
    transport = next(module for module in APP if module.name == "keap/transport.py")
    parents = {child: node for node in transport.nodes for child in ast.iter_child_nodes(node)}
    uses = [node for node in transport.nodes if isinstance(node, ast.Attribute) and node.attr == "environ"]

    assert [ast.unparse(parents[parents[use]]) for use in uses] == ["os.environ['OAUTHLIB_INSECURE_TRANSPORT'] = '1'"]


def test_only_the_clock_asks_for_the_time():
    def asks_for_the_time(module):
        return any(
            ast.unparse(call.func)
            in {"datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time", "time.monotonic"}
            or ast.unparse(call.func).startswith("time.clock_gettime")
            for call in module.calls()
        )

    assert breaking(asks_for_the_time) == ["keap_connect/clock.py"]


def test_only_the_refresher_refreshes_and_few_exchange():
    def presents(name):
        return lambda module: ("keap_connect.keap.token_endpoint", name) in module.imports()

    assert breaking(presents("refresh")) == ["keap_connect/refresh/refresher.py"]
    steps = "keap_connect.refresh.refresher", "present"
    assert breaking(lambda module: steps in module.imports()) == ["keap_connect/refresh/worker_pool.py"]
    assert breaking(presents("exchange_code")) == [
        "keap_connect/connect/callback.py",
        "keap_connect/connect/client_check.py",  # sends a code that cannot be one
    ]
    assert breaking(lambda module: "token_endpoint" in {name for _, name in module.imports()}) == []


@pytest.mark.proves("R99")
def test_web_requests_take_a_slot_before_they_wait_for_keap():
    waiting = {
        "check_client",
        "identify_pending",
        "complete_callback",
        "identify_and_store",
        "import_credential",
        "refresh_account",
    }

    def waits_without_a_slot(module):
        """Whether a page or an operation calls one of these outside a slot; the token API may."""
        blocks = (node for node in module.nodes if isinstance(node, ast.With))
        in_a_slot = {
            id(node)
            for block in blocks
            if "keap_call_slot()" in {ast.unparse(item.context_expr) for item in block.items}
            for node in ast.walk(block)
        }
        calls = (call for call in module.calls() if ast.unparse(call.func) in waiting)
        return module.part in {"web", "api"} and any(id(call) not in in_a_slot for call in calls)

    assert breaking(waits_without_a_slot) == ["keap_connect/api/tokens.py"]
    assert breaking(lambda module: "keap_call_slot" in module.names() and module.part in {"refresh", "cli"}) == []


def test_few_open_a_refresh_token():
    opening = breaking(lambda module: "open_refresh_token" in module.names())

    assert opening == [
        "keap_connect/accounts/directory.py",  # shows its last four characters
        "keap_connect/connect/identifying.py",  # moves a pending account's grant to where it belongs
        "keap_connect/refresh/lease.py",
    ]


@pytest.mark.proves("F63")
def test_requests_leave_through_the_transport_and_the_webhooks_alone():
    def opens_a_line(module):
        ways = {"requests.get", "requests.post", "requests.request", "requests.Session", "urlopen", "create_connection"}
        return {ast.unparse(call.func) for call in module.calls()} & ways or any(
            name.split(".")[0] in {"pycurl", "urllib3", "httpx", "aiohttp"} or name in {"http.client", "urllib.request"}
            for name, _ in module.imports()
        )

    assert breaking(opens_a_line) == ["keap_connect/keap/transport.py", "keap_connect/notifications/webhooks.py"]


def test_one_function_writes_history_and_nobody_changes_it():
    def changes_history(module):
        changing = {"update", "delete", "bulk_update_mappings"}
        calls = (call for call in module.calls() if ast.unparse(call.func).split(".")[-1] in changing)
        return any("AccountEvent" in ast.unparse(argument) for call in calls for argument in call.args) or any(
            word in text.upper()
            for text in module.texts()
            for word in ("UPDATE ACCOUNT_EVENT", "DELETE FROM ACCOUNT_EVENT")
        )

    def writes_history(module):
        return any(
            ast.unparse(call) == "insert(AccountEvent)" or ast.unparse(call.func) == "AccountEvent"
            for call in module.calls()
        )

    assert breaking(writes_history) == ["keap_connect/events/history.py"]
    # Old rows leave by the operator's command alone, which writes down that it did.
    assert breaking(changes_history, MODULES + OUTSIDE) == ["keap_connect/events/deleting.py"]


def test_code_that_locks_several_rows_names_their_order():
    """Two transactions that lock the same rows in another order would wait for each other."""

    def locks_in_any_order(module):
        functions = (ast.unparse(node) for node in module.nodes if isinstance(node, ast.FunctionDef))
        return any(
            ".scalars(" in text and text.count(".with_for_update()") > text.count(".order_by(") for text in functions
        )

    assert breaking(locks_in_any_order) == []


# What is nowhere in the source


@pytest.mark.proves("R17")
def test_certificates_are_verified_everywhere():
    def trusts_blindly(module):
        keywords = {keyword.arg for call in module.calls() for keyword in call.keywords}
        attributes = {node.attr for node in module.nodes if isinstance(node, ast.Attribute)}
        switches = {"verify", "cert_reqs", "cert_verify", "check_hostname", "assert_hostname", "verify_mode"}
        words = {"CERT_NONE", "_create_unverified_context", "disable_warnings", "cert_verify"}
        words |= {prefix + name for prefix in ("", "PROXY_") for name in ("SSL_VERIFYPEER", "SSL_VERIFYHOST")}
        # Passwords are verified too, by a method of that name.
        return keywords & switches or attributes & (switches - {"verify"}) or module.names() & words

    assert breaking(trusts_blindly, MODULES) == []


@pytest.mark.proves("R06")
def test_there_are_two_grant_types_and_no_others():
    clients = {
        "LegacyApplicationClient",
        "BackendApplicationClient",
        "MobileApplicationClient",
        "ServiceApplicationClient",
    }
    words = {"client_credentials", "implicit", "id_token", "urn:ietf:params:oauth:grant-type:device_code"}

    assert {grant_type.value for grant_type in GrantType} == {"authorization_code", "refresh_token"}
    assert breaking(lambda module: module.names() & clients, MODULES) == []
    assert breaking(lambda module: words & set(module.texts())) == []
    assert breaking(lambda module: any("response_type" in text for text in module.texts())) == []


def test_no_weak_cipher_or_hash_protects_anything():
    weak = {"md5", "sha1", "MD5", "SHA1", "ECB", "TripleDES", "ARC4", "Blowfish"}

    assert breaking(lambda module: module.names() & weak, MODULES) == []


def test_no_text_becomes_code():
    dangerous = {"eval", "exec", "render_template_string", "os.system", "os.popen", "pickle.loads", "yaml.load"}

    def runs_text(module):
        shell = any(keyword.arg == "shell" for call in module.calls() for keyword in call.keywords)
        return shell or {ast.unparse(call.func) for call in module.calls()} & dangerous

    assert breaking(runs_text, MODULES) == []


def test_no_file_has_a_name_that_says_nothing():
    nothing = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "base", "manager"}

    assert (
        breaking(lambda module: {part.removesuffix(".py") for part in module.name.split("/")} & nothing, MODULES) == []
    )


def test_every_module_says_what_it_owns():
    assert [module.name for module in MODULES if not ast.get_docstring(module.tree)] == []


def test_the_reader_of_the_source_sees_what_it_looks_for():
    """Each rule above is of use only when its reading finds the thing where it is."""
    transport = next(module for module in APP if module.name == "keap/transport.py")

    assert ("requests_oauthlib", "OAuth2Session") in transport.imports()
    assert "settings" in transport.own_imports()
    assert "environ" in transport.names()
    assert "application/json" in transport.texts()
    assert transport.tree.body[0].value.value not in transport.texts()
    assert breaking(lambda module: any(getattr(node, "level", 0) for node in module.nodes), MODULES) == []
