from genie.data.licence import licence_text


def test_licence_files_are_joined_and_other_files_left_out(tmp_path):
    (tmp_path / "LICENSE.md").write_text("MIT, ©\n", encoding="utf-8")
    (tmp_path / "notice").write_text("by somebody\n")
    (tmp_path / "README.md").write_text("read")
    (tmp_path / "licenses").mkdir()
    assert licence_text(tmp_path) == "MIT, ©\n\nby somebody"


def test_folder_without_a_licence_and_a_single_file_have_none(tmp_path):
    (tmp_path / "images.parquet").write_bytes(b"")
    assert licence_text(tmp_path) == licence_text(tmp_path / "images.parquet") == ""
