"""Beds: folders of really trained experts, and the gates on pools of them."""
