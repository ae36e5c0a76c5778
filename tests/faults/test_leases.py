"""A lease holds what its holder was told is there already."""

from __future__ import annotations

import grpc
import pytest

from tests.support.daemon import Daemon

from .api import Api
from .clients import payload, sha256


@pytest.mark.parametrize("when", ["open", "commit"])
def test_a_blob_that_was_there_is_held_too(when: str) -> None:
    data = payload(1)
    digest = sha256(data)
    with Daemon() as daemon, daemon.channel() as channel:
        api = Api(channel, "leases")
        api.create_lease("first")
        api.create_lease("second")
        api.put("first", data, digest, lease="first")

        def again() -> None:
            with api.upload("second", expected=digest if when == "open" else "", lease="second") as upload:
                upload.write(data)
                upload.commit(digest, {})

        with pytest.raises(grpc.RpcError) as raised:
            again()
        assert raised.value.code() == grpc.StatusCode.ALREADY_EXISTS
        api.delete_lease("first", sync=True)
        assert api.read(digest) == data
        api.delete_lease("second", sync=True)
        assert not [key for key in api.observe() if key[0] == "content"]
