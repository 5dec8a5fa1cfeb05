"""The site file: what it takes, what the environment changes, and how a mistake is answered."""

from pathlib import Path

import pytest

from onecard_site import SiteError, load_site, utc_offset_of

GOOD = '[site]\nid = 7\nroot_public_key = "' + "ab" * 32 + '"\n'


def site_file(directory: Path, text: str) -> Path:
    path = directory / "site.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_short_file_is_enough_and_paths_start_where_it_stands(tmp_path: Path) -> None:
    site = load_site(site_file(tmp_path, GOOD), {})
    assert site.site.id == 7
    assert site.root_public_key() == bytes([0xAB]) * 32
    assert site.path(site.ledger.data_dir) == tmp_path / "data" / "ledger"
    assert load_site(tmp_path, {}).directory == str(tmp_path)


def test_the_environment_overrides_single_values(tmp_path: Path) -> None:
    site_file(tmp_path, GOOD)
    environment = {"ONECARD_FRONTEND__ID": "9", "ONECARD_FRONTEND__LISTEN_ADDRESS": "0.0.0.0:4700", "PATH": "/bin"}
    site = load_site(tmp_path, environment)
    assert (site.frontend.id, site.frontend.listen_address) == (9, "0.0.0.0:4700")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "site"),
        ("[site]\nid = 0\n", r"\[site\] id"),
        (GOOD + '[frontend]\nid = "x"\n', r"\[frontend\] id: Expected `int`, got `str`"),
        (GOOD + "[frontend]\nlisten_adress = 'x'\n", "listen_adress"),
        (GOOD + "time_zone = 'Mars/Olympus'\n", "time_zone: 'Mars/Olympus' is not known"),
        (GOOD + "[ledger\n", "site.toml"),
        ("[site]\nid = 7\nroot_public_key = 'zz'\n", "root_public_key"),
    ],
)
def test_a_mistake_is_answered_with_file_section_and_key(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SiteError, match=says) as caught:
        load_site(site_file(tmp_path, text), {})
    assert "site.toml" in str(caught.value) or "time_zone" in str(caught.value)


def test_a_missing_file_says_which_command_makes_one(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="onecard keys init"):
        load_site(tmp_path, {})


def test_a_socket_path_that_the_system_cannot_bind_is_refused_in_words(tmp_path: Path) -> None:
    site = load_site(site_file(tmp_path, GOOD), {})
    with pytest.raises(SiteError, match="socket path may have 107 bytes"):
        site.socket("x" * 108)


def test_trade_days_follow_the_zone_of_the_site_with_its_summer_time() -> None:
    assert utc_offset_of("Asia/Shanghai")(1_790_000_000_000) == 8 * 3_600_000
    berlin = utc_offset_of("Europe/Berlin")
    assert berlin(1_774_745_999_999) == 3_600_000  # 2026-03-29 00:59:59.999 UTC
    assert berlin(1_774_746_000_000) == 7_200_000  # one millisecond later summer time begins


# -- several front-ends


def test_a_second_front_end_may_be_an_empty_section_and_has_names_of_its_own(tmp_path: Path) -> None:
    site = load_site(site_file(tmp_path, GOOD + "[frontend]\nledger_link = 'run/l.sock'\n[frontends.2]\n"), {})
    second = site.of_frontend(2).frontend
    assert (second.id, second.data_dir, second.control_socket) == (2, "data/frontend-2", "run/frontend-2.sock")
    assert (second.keystore, second.unlock) == ("secrets/frontend-2.keystore", "secrets/frontend-2.unlock")
    assert second.ledger_link == "run/l.sock"
    assert site.numbers() == [1, 2]
    assert [one.frontend.id for one in site.each_frontend()] == [1, 2]
    assert site.of_frontend(None).frontend.id == site.of_frontend(1).frontend.id == 1


def test_the_environment_reaches_a_second_front_end_alone(tmp_path: Path) -> None:
    site_file(tmp_path, GOOD + "[frontends.2]\n")
    site = load_site(tmp_path, {"ONECARD_FRONTENDS__2__LISTEN_ADDRESS": "0.0.0.0:4701"})
    assert site.of_frontend(2).frontend.listen_address == "0.0.0.0:4701"
    assert site.frontend.listen_address == "127.0.0.1:0"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[frontends.two]\n", r"\[frontends.two\]: the section's name is the front-end's number"),
        ("[frontends.2]\nid = 3\n", r"\[frontends.2\]: the section's name"),
        ("[frontends.1]\n", "two front-ends have id 1"),
        ("[frontends.2]\ndata_dir = 'data/frontend'\n", "two front-ends have data_dir data/frontend"),
        (
            "[frontends.2]\nlisten_address = 'x:4700'\n[frontends.3]\nlisten_address = 'x:4700'\n",
            "listen_address x:4700",
        ),
        ("[frontends.2]\nlisten_adress = 'x'\n", "listen_adress"),
        ("[frontends.0]\n", "id"),
        ("".join(f"[frontends.{number}]\n" for number in range(2, 103)), "at most 100"),
    ],
)
def test_front_ends_that_would_undo_each_other_are_refused_in_words(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SiteError, match=says):
        load_site(site_file(tmp_path, GOOD + text), {})


def test_a_front_end_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    site = load_site(site_file(tmp_path, GOOD + "[frontends.4]\n"), {})
    with pytest.raises(SiteError, match="no front-end 9 in this site file, only 1, 4"):
        site.of_frontend(9)
