import pytest

from router.backends.backend import Backend, Kind, parse_backend
from router.errors import ConfigError
from router.options import parse_serve


@pytest.mark.parametrize(
    ("text", "backend"),
    [
        ("http://a:8000", Backend("a", 8000)),
        ("http://a:8000/", Backend("a", 8000)),
        ("http://a", Backend("a", 80)),
        ("HTTP://My_Host-1.local:81", Backend("my_host-1.local", 81)),
        ("http://[::1]:30000,kind=auto", Backend("::1", 30000)),
        ("http://[0:0::00:1]:30000", Backend("::1", 30000)),
        ("http://xn--bcher-kva.example:1", Backend("xn--bcher-kva.example", 1)),
        ("http://a:1,kind=vllm", Backend("a", 1, Kind.VLLM)),
        ("https://a", Backend("a", 443, tls="system")),
        ("HTTPS://a:80", Backend("a", 80, tls="system")),
        ("https://a,insecure-skip-verify=true", Backend("a", 443, tls="unverified")),
        ("http://a:1,api-key-env=KEY_1", Backend("a", 1, api_key_env="KEY_1")),
        ("http://a:1,dp-size=4", Backend("a", 1, None, 4)),
        ("http://a:1,dp-size=4,kind=sglang", Backend("a", 1, Kind.SGLANG, 4)),
        ("http://a:1,weight=0.5", Backend("a", 1, weight=0.5)),
        ("http://a:1,kind=llamacpp,dp-size=1", Backend("a", 1, Kind.LLAMACPP, 1)),
    ],
)
def test_a_backend_is_a_url_and_what_is_known_of_it(text, backend):
    """
    What is not said is found out.
    """
    assert parse_backend(text) == backend


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a:8000", "'a:8000': allowed is http://host:port"),
        ("ftp://a:8000", "'ftp://a:8000': allowed is http://host:port"),
        ("https://a:80000", "'https://a:80000': allowed are ports 1 to 65535"),
        ("http://a:1,ca-file=/x", "ca-file=/x: is for https://, and this is http://"),
        ("http://a,insecure-skip-verify=true", "insecure-skip-verify=true: is for https://"),
        ("https://a,insecure-skip-verify=yes", "insecure-skip-verify=yes: allowed is true"),
        ("https://a,ca-file=ca.pem", "ca-file=ca.pem: allowed is an absolute path of at most 200"),
        ("https://a,ca-file=/no/file", "ca-file=/no/file: no certificates can be read: [Errno 2]"),
        ("https://a,ca-file=/dev/null", "ca-file=/dev/null: no certificates can be read: it is no"),
        ("https://a,insecure-skip-verify=true,ca-file=/x", "ca-file=/x: verifies nothing with"),
        ("http://a:1,kind=vllm,kind=vllm", "'kind=vllm': kind is told twice"),
        ("http://a:8000/v1", "'http://a:8000/v1': allowed is http://host:port, and nothing"),
        ("http://u:p@a:8000", "'***@a:8000': allowed is http://host:port, without user or"),
        ("http://a:0", "'http://a:0': allowed are ports 1 to 65535"),
        ("http://a b:80", "'http://a b:80': allowed is http://host:port"),
        ("http://a:8000 ", "'http://a:8000 ': allowed is http://host:port"),
        ("http://a:8000/?", "'http://a:8000/?': allowed is http://host:port, and nothing"),
        ("http://a:8000#", "'http://a:8000#': allowed is http://host:port, and nothing"),
        ("http://a:8000;x", "'http://a:8000;x': allowed is http://host:port, and nothing"),
        ("http://[fe80::1%eth0]:80", "an IPv6 address in brackets, without a zone"),
        ("http://::1:80", "an IPv6 address in brackets"),
        ("http://[::1", "'http://[::1': allowed is http://host:port"),
        ("http://999.1.1.1:80", "'999.1.1.1': that is no host's name or address: Invalid IPv4"),
        ("http://xn--a:80", "'xn--a': that is no host's name or address: "),
        ("http://[1:2]:80", "[1:2]: that is no IPv6 address"),
        ("http://a:80000", "'http://a:80000': allowed are ports 1 to 65535"),
        ("http://:8000", "'http://:8000': allowed is http://host:port"),
        ("http://a:1,kind=tgi", "kind=tgi: allowed are auto, vllm, sglang, llamacpp, openai,"),
        ("http://a:1,dp-size=0", "dp-size=0: allowed are integers, 1 to 1024"),
        ("http://a:1,dp-size=two", "dp-size=two: allowed are integers, 1 to 1024"),
        ("http://a:1,dpsize=2", "'dpsize=2': allowed after the URL are kind=..., dp-size=..., we"),
        ("http://a:1,weight=0", "weight=0: allowed are 0.01 to 100"),
        ("http://a:1,weight=nan", "weight=nan: allowed are 0.01 to 100"),
        ("http://a:1,kind=llamacpp,dp-size=2", "dp-size=2: llamacpp has no DP ranks"),
    ],
)
def test_a_bad_backend_is_refused_with_what_is_allowed(text, said):
    """
    By the value that is wrong.
    """
    with pytest.raises(ConfigError, match="argument --backend") as refused:
        parse_serve(["--backend", text], {})

    assert said in str(refused.value)


def test_several_backends_may_be_told():
    """
    In the order in which their groups are numbered.
    """
    options = parse_serve(["--backend", "http://a:1", "--backend", "http://b:2"], {})

    assert [backend.url for backend in options.backends] == ["http://a:1", "http://b:2"]


def test_a_backend_is_told_once():
    """
    Twice would be two groups that are one.
    """
    with pytest.raises(ConfigError, match="--backend http://a:1: is told twice"):
        parse_serve(["--backend", "http://a:1", "--backend", "http://a:1/"], {})


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--dp-size", "3"), ("--model", "m.gguf"), ("--page-size", "32"), ("--admission", "late")],
)
def test_flags_of_our_workers_are_refused_beside_backends(flag, value):
    """
    They would do nothing, and whoever gave them would not know.
    """
    with pytest.raises(ConfigError, match=f"{flag} {value}: is for workers of ours"):
        parse_serve(["--backend", "http://a:1", flag, value], {})


def test_figures_of_backends_count_for_as_long_as_it_takes_to_read_the_next():
    """
    Else they would count now and then.
    """
    with pytest.raises(ConfigError, match=r"--max-load-age 0\.9: with backends.* 1 or more"):
        parse_serve(["--backend", "http://a:1", "--max-load-age", "0.9"], {})

    assert parse_serve(["--backend", "http://a:1", "--max-load-age", "1"], {}).backends
    assert parse_serve(["--max-load-age", "0.9"], {}).max_load_age_s == 0.9


@pytest.mark.parametrize("text", ["http://u:secret@a:1", "u:secret@a:1", "http://u:se,secret@a:1"])
def test_a_password_is_not_told_on(text):
    """
    Whatever is wrong with the rest.
    """
    with pytest.raises(ConfigError) as refused:
        parse_serve(["--backend", text], {})

    assert "secret" not in str(refused.value)


def test_the_same_server_with_and_without_tls_is_two_backends():
    """
    A port speaks one of them, and whoever says both has made a mistake that will be seen.
    """
    options = parse_serve(["--backend", "http://a:1", "--backend", "https://a:1"], {})

    assert [backend.url for backend in options.backends] == ["http://a:1", "https://a:1"]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "--backend http://a:1: api-key-env=KEY: the environment has no KEY"),
        ({"KEY": ""}, "api-key-env=KEY: what it holds is no key"),
        (
            {"KEY": "sk-secret\n"},
            "api-key-env=KEY: what it holds is no key: allowed are printable ASCII",
        ),
        ({"KEY": "sk secret"}, "api-key-env=KEY: what it holds is no key"),
    ],
)
def test_a_key_that_cannot_be_sent_is_refused_and_not_told(environment, said):
    """
    A line's end, which files of secrets often have, would begin another header.
    """
    with pytest.raises(ConfigError) as refused:
        parse_serve(["--backend", "http://a:1,api-key-env=KEY"], environment)

    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_key_in_place_of_its_variables_name_is_not_told_on():
    """
    That mistake is made easily, and what refuses it goes to a log.
    """
    with pytest.raises(ConfigError, match="allowed is the name of an environment var") as refused:
        parse_serve(["--backend", "http://a:1,api-key-env=sk-secret"], {})

    assert "secret" not in str(refused.value)
