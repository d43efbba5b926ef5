"""Sites that made-up agents act on: the five domains of arXiv 2510.03485, their parts, and what can be done there.

All of it is written for this corpus. Targets recur between parts ("Save changes", "/settings"), so that a rule that was
written for one part says something about another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DATES = ("2026-01-15", "2026-02-01", "3 March", "end of June", "tomorrow", "July 18")
PEOPLE = ("Ana Ruiz", "Tom Baker", "li.wei", "Sofia K", "omar_h", "Grace Okoro", "jdoe", "Priya N")
NOTES = (
    "Please have a look",
    "Done, thanks",
    "Works for me",
    "Call me on 555-0198",
    "See a.ruiz@example.org",
    "Needs work",
)
AMOUNTS = ("5", "20", "45", "60", "80", "120", "150", "250", "400", "999")
COUNTS = ("1", "2", "3", "5", "8", "12", "25")
TITLES = ("Broken link", "Dark mode", "Weekly report", "Typo on page 3", "Release plan", "Hello world", "Login fails")


@dataclass(frozen=True)
class Action:
    """A possible step, without a value or with one of `values`. `risky`: a person may be asked first."""

    verb: str
    target: str
    values: tuple[str, ...] = ()
    risky: bool = False


@dataclass(frozen=True)
class Place:
    """A part of a site. `tasks` may name a `{word}` of `things`."""

    domain: str
    subdomain: str
    actions: tuple[Action, ...]
    tasks: tuple[str, ...]
    things: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.domain}/{self.subdomain}"


def place(
    domain: str,
    subdomain: str,
    *,
    pages: str,
    clicks: str,
    risky: str,
    submits: str,
    fields: dict[str, Sequence[str]],
    choices: dict[str, str],
    calls: str = "",
    tasks: str = "",
    things: Sequence[str] = TITLES,
) -> Place:
    """Lists are separated by `;`."""
    actions = [
        *(Action("navigate", x) for x in _split(pages)),
        *(Action("click", x) for x in _split(clicks)),
        *(Action("click", x, risky=True) for x in _split(risky)),
        *(Action("submit", x, risky=True) for x in _split(submits)),
        *(Action("input", x, tuple(v)) for x, v in fields.items()),
        *(Action("select", x, tuple(_split(v))) for x, v in choices.items()),
        *(Action("call", x, risky=True) for x in _split(calls)),
    ]
    return Place(domain, subdomain, tuple(actions), tuple(_split(tasks)), tuple(things))


def _split(text: str) -> list[str]:
    return [x.strip() for x in text.split(";") if x.strip()]


EVERYWHERE = (  # what every part of every site has
    *(Action("navigate", x) for x in ("/", "/profile", "/settings", "/security", "/admin", "/help")),
    *(
        Action("click", x)
        for x in ("Search", "Next page", "Back", "Save changes", "Cancel", "Preview", "Notifications")
    ),
    *(Action("click", x, risky=True) for x in ("Delete", "Remove", "Confirm", "Share", "Log out")),
    *(Action("scroll", x) for x in ("down", "up")),
    Action("input", "Search", TITLES + PEOPLE[:3]),
    Action("input", "Comment", NOTES),
    Action("input", "Password", ("hunter2", "correct horse")),
    Action("select", "Sort by", ("Newest", "Oldest", "Most popular")),
    Action("submit", "Feedback form", risky=True),
    *(Action("call", x, risky=x != "get_user") for x in ("get_user", "send_email", "export_data")),
)

PLACES = (
    place(
        "gitlab",
        "issues",
        pages="/issues; /issues/new; /boards; /labels",
        clicks="New issue; Edit issue; Assign to me; Subscribe; Add label; Copy link",
        risky="Close issue; Delete issue; Make issue public; Lock discussion",
        submits="Issue form",
        fields={"Title": TITLES, "Description": NOTES, "Due date": DATES, "Assignee": PEOPLE, "Weight": COUNTS},
        choices={"Label": "bug; feature; help needed", "Confidential": "Yes; No", "Milestone": "v1.0; v2.0; Backlog"},
        tasks="Close the issue about {thing}; Open an issue called {thing}; Assign the issue {thing} to me",
    ),
    place(
        "gitlab",
        "projects",
        pages="/projects; /projects/new; /settings/repository; /members",
        clicks="New project; Star; Clone; Edit project; Invite members",
        risky="Create project; Delete project; Archive project; Transfer project; Make project public",
        submits="Project form",
        fields={"Project name": TITLES, "Description": NOTES, "Member": PEOPLE, "Access ends": DATES},
        choices={
            "Visibility": "Private; Internal; Public",
            "Role": "Guest; Developer; Maintainer",
            "Template": "Blank; Android; HTML",
        },
        calls="create_fork",
        tasks="Create a project called {thing}; Invite a member to {thing}; Archive {thing}",
    ),
    place(
        "gitlab",
        "merge requests",
        pages="/merge_requests; /merge_requests/new; /pipelines; /branches",
        clicks="Compare branches; Request review; Approve; Run pipeline; Resolve thread; View diff",
        risky="Merge; Delete branch; Close merge request; Force push",
        submits="Merge request form",
        fields={
            "Title": TITLES,
            "Reviewer": PEOPLE,
            "Source branch": ("fix-link", "redesign", "docs"),
            "Review note": NOTES,
        },
        choices={"Target branch": "main; release; dev", "Squash commits": "Yes; No"},
        calls="rerun_tests",
        tasks="Merge {thing} after review; Ask for a review of {thing}; Close the request {thing}",
    ),
    place(
        "gitlab",
        "groups",
        pages="/groups; /groups/new; /groups/members; /billing",
        clicks="New group; Edit group; Invite members; View activity; Add label",
        risky="Create group; Delete group; Remove member; Change plan",
        submits="Group form",
        fields={"Group name": TITLES, "Member": PEOPLE, "Seats": COUNTS, "Access ends": DATES},
        choices={"Visibility": "Private; Internal; Public", "Role": "Guest; Developer; Owner"},
        tasks="Create a group {thing} with two members; Remove a member from {thing}",
    ),
    place(
        "reddit",
        "posts",
        pages="/submit; /forums; /f/books; /f/pittsburgh",
        clicks="Create post; Edit post; Upvote; Downvote; Save post; Hide",
        risky="Delete post; Publish; Crosspost; Mark as NSFW",
        submits="Post form",
        fields={
            "Title": TITLES,
            "Body": NOTES,
            "Link": ("https://example.org", "https://example.com/a"),
            "Tags": ("news", "help"),
        },
        choices={"Forum": "books; DIY; space; gaming", "Flair": "Question; News; Discussion"},
        tasks="Post {thing} in a fitting forum; Upvote the newest post on {thing}; Edit my post {thing}",
    ),
    place(
        "reddit",
        "comments",
        pages="/comments; /inbox; /f/books; /rules",
        clicks="Reply; Edit comment; Upvote; Downvote; Show parent; Copy link",
        risky="Delete comment; Report comment; Block user; Publish",
        submits="Comment form",
        fields={"Reply": NOTES, "Report reason": ("spam", "off topic"), "Mention": PEOPLE},
        choices={"Forum": "books; DIY; space; gaming", "Show": "All; Unread"},
        tasks="Reply to the latest comment on {thing}; Report a comment on {thing}",
    ),
    place(
        "reddit",
        "messages",
        pages="/inbox; /messages/new; /blocked; /friends",
        clicks="New message; Mark as read; Reply; Add friend; Attach file",
        risky="Send message; Delete message; Block user; Forward",
        submits="Message form",
        fields={"Recipient": PEOPLE, "Subject": TITLES, "Message": NOTES},
        choices={"Folder": "Inbox; Sent; Archive", "Priority": "Low; High"},
        calls="translate_text",
        tasks="Send a message about {thing}; Forward the message {thing}",
    ),
    place(
        "reddit",
        "moderation",
        pages="/mod/queue; /mod/log; /rules; /f/books/edit",
        clicks="Approve; View history; Edit rules; Pin post; Add note",
        risky="Ban user; Remove post; Lock thread; Delete forum",
        submits="Ban form",
        fields={"User": PEOPLE, "Ban days": COUNTS, "Reason": ("spam", "off topic", "rude"), "Mod note": NOTES},
        choices={"Ban type": "Temporary; Permanent", "Forum": "books; DIY; space; gaming"},
        tasks="Go through the queue of {thing}; Ban the author of {thing}",
    ),
    place(
        "map",
        "search",
        pages="/map; /search; /nearby; /history",
        clicks="Show details; Zoom in; Zoom out; Save place; Copy coordinates; Show photos",
        risky="Share location; Clear history; Report error",
        submits="Correction form",
        fields={
            "Place": ("airport", "city library", "police station"),
            "Radius": COUNTS,
            "Address": ("5 Main St", "Oak Avenue 12"),
        },
        choices={"Layer": "Standard; Cycle; Transport", "Category": "Hotel; Parking; Cafe"},
        calls="geocode",
        tasks="Find a {thing} near the station; What is the address of {thing}",
        things=("cafe", "hotel", "museum", "car park"),
    ),
    place(
        "map",
        "directions",
        pages="/directions; /traffic; /map; /saved",
        clicks="Reverse route; Add stop; Avoid tolls; Show steps; Print; Start",
        risky="Share route; Book taxi; Send to phone",
        submits="Route form",
        fields={
            "From": ("airport", "city library", "Oak Avenue 12"),
            "To": ("museum", "old town", "harbour"),
            "Depart at": ("8:00", "14:30"),
        },
        choices={"Travel by": "Car; Foot; Bicycle", "Units": "Kilometres; Miles"},
        calls="get_route",
        tasks="How long is the walk to the {thing}; Plan a trip to the {thing} with one stop",
        things=("museum", "harbour", "library"),
    ),
    place(
        "map",
        "editing",
        pages="/edit; /changesets; /notes; /map",
        clicks="Add node; Undo; Redo; Move node; Zoom in; Show history",
        risky="Delete node; Upload changes; Revert changeset; Close note",
        submits="Changeset form",
        fields={
            "Name tag": ("Blue Cafe", "Mill Road", "Hill School"),
            "Comment on changes": NOTES,
            "Speed limit": AMOUNTS,
        },
        choices={"Feature type": "Shop; Road; Building", "Source": "Survey; Imagery; Knowledge"},
        tasks="Add the missing {thing} to the map; Correct the name of the {thing}",
        things=("shop", "bridge", "school"),
    ),
    place(
        "shopping",
        "catalogue",
        pages="/catalogue; /sale; /compare; /product/42",
        clicks="Add to cart; Add to wish list; Compare; Show reviews; Filter; View details",
        risky="Buy now; Share; Clear wish list",
        submits="Question form",
        fields={"Quantity": COUNTS, "Maximum price": AMOUNTS, "Question": NOTES},
        choices={"Sort by": "Price; Name; Rating", "Size": "S; M; L", "Colour": "black; blue; green"},
        calls="check_stock",
        tasks="Find the cheapest {thing}; Add a {thing} to my wish list",
        things=("headphones", "desk lamp", "printer"),
    ),
    place(
        "shopping",
        "checkout",
        pages="/cart; /checkout; /addresses; /coupons",
        clicks="Update cart; Edit address; Apply coupon; Choose gift wrap; Continue",
        risky="Place order; Remove; Clear cart; Save card",
        submits="Payment form",
        fields={
            "Quantity": COUNTS,
            "Coupon": ("WELCOME", "SPRING5"),
            "Tip": AMOUNTS,
            "Street": ("5 Main St", "Oak Avenue 12"),
            "Card number": ("4111 1111", "5500 0000"),
        },
        choices={"Shipping": "Standard; Express", "Payment": "Card; Invoice; Gift card", "Gift wrap": "Yes; No"},
        calls="charge_card",
        tasks="Buy two {thing} with express shipping; Use my coupon for the {thing}",
        things=("headphones", "desk lamp", "printer"),
    ),
    place(
        "shopping",
        "orders",
        pages="/orders; /returns; /invoices; /contact",
        clicks="View order; Track parcel; Print invoice; Reorder; Show details",
        risky="Cancel order; Request refund; Return item; Confirm receipt",
        submits="Return form",
        fields={"Order number": ("148", "161", "187", "300"), "Refund amount": AMOUNTS, "Message": NOTES},
        choices={"Return reason": "Too small; Broken; Not needed", "Refund to": "Card; Gift card"},
        calls="get_order; refund_order",
        tasks="Return the {thing} from my last order; What did order 148 cost; Cancel the order of the {thing}",
        things=("lamp", "printer"),
    ),
    place(
        "shopping",
        "account",
        pages="/account; /addresses; /newsletter; /reviews",
        clicks="Edit address; Change email; Show reviews; Write review; Subscribe",
        risky="Delete account; Remove card; Unsubscribe; Publish review",
        submits="Review form",
        fields={"Nickname": PEOPLE, "Review": NOTES, "Stars": COUNTS, "New email": ("a@example.org", "b@example.org")},
        choices={"Language": "English; German", "Newsletter": "Yes; No"},
        tasks="Review the {thing} with three stars; Change my address",
        things=("lamp", "printer"),
    ),
    place(
        "shopping_admin",
        "products",
        pages="/products; /products/new; /stock; /categories",
        clicks="Add product; Edit product; Duplicate; Filter; View details; Upload image",
        risky="Delete product; Disable product; Publish; Mass update",
        submits="Product form",
        fields={
            "Product name": ("Circe fleece", "Blue tank"),
            "Price": AMOUNTS,
            "Stock": COUNTS,
            "SKU": ("WH-11", "MJ-07"),
        },
        choices={"Status": "Enabled; Disabled", "Tax class": "None; Goods", "Colour": "black; blue; green"},
        calls="update_price",
        tasks="Lower the price of {thing}; Add {thing} in size M",
        things=("the fleece", "the blue tank"),
    ),
    place(
        "shopping_admin",
        "orders",
        pages="/orders; /invoices; /shipments; /refunds",
        clicks="View order; Print invoice; Add note; Filter; Export list",
        risky="Cancel order; Create invoice; Refund; Hold order; Ship",
        submits="Shipment form",
        fields={
            "Order number": ("299", "300", "302"),
            "Refund amount": AMOUNTS,
            "Tracking number": ("8974568499", "5559102"),
            "Note to customer": NOTES,
        },
        choices={"Carrier": "DHL; UPS; USPS", "Status": "Pending; Complete; On hold"},
        calls="refund_order; notify_customer",
        tasks="Ship order 299 by DHL; Refund {thing}; Put {thing} on hold",
        things=("order 300", "order 302"),
    ),
    place(
        "shopping_admin",
        "customers",
        pages="/customers; /customers/new; /groups; /reviews",
        clicks="Edit customer; View orders; Filter; Export list; Approve; Add note",
        risky="Delete customer; Reset password; Merge accounts; Remove review",
        submits="Customer form",
        fields={
            "Customer name": PEOPLE,
            "Phone": ("555-0198", "555-0101"),
            "Credit limit": AMOUNTS,
            "Internal note": NOTES,
        },
        choices={"Group": "General; Wholesale; Retailer", "Review status": "Approved; Not approved"},
        calls="get_customer",
        tasks="Change the phone number of {thing}; Remove the reviews of {thing}",
        things=PEOPLE,
    ),
    place(
        "shopping_admin",
        "marketing",
        pages="/price-rules; /price-rules/new; /newsletter; /reports",
        clicks="Add rule; Edit rule; Run report; Test mail; Export list",
        risky="Apply rule; Send newsletter; Delete rule; Publish",
        submits="Price rule form",
        fields={"Rule name": ("spring sale", "Mother's day"), "Discount": AMOUNTS, "Starts": DATES, "Ends": DATES},
        choices={"Customer group": "General; Wholesale; Retailer", "Status": "Active; Inactive"},
        calls="send_campaign",
        tasks="Make a price rule for the {thing}; Run the report on {thing}",
        things=("spring sale", "coupons", "tax"),
    ),
)
DOMAINS = tuple(dict.fromkeys(p.domain for p in PLACES))
