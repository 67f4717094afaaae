from streamrnn.formats import foreign_format


def test_the_length_of_a_safetensors_header_is_no_pickle():
    for protocol in range(2, 6):
        size = 128 + 256 * protocol
        assert foreign_format(size.to_bytes(8, "little") + b'{"w":') is None
        assert "a pickle" in foreign_format(bytes([128, protocol]) + b"}q\0.")
