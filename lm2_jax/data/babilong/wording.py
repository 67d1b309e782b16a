"""The wording of our prompts: what is said about each bAbI task when the model was not tuned.

A task has an instruction, examples of facts with a question and its answer, and the form in
which the answer is wanted.
"""

from typing import NamedTuple


class Wording(NamedTuple):
    instruction: str
    examples: tuple[tuple[str, str], ...]  # (facts and question, answer)
    form: str


_HIDDEN = ("Between the tags <context> and </context> you will find a long text. Some of its "
           "sentences are facts about {about}; everything else in it is beside the point. ")
_PLACE = "Answer with the name of the place, one word, and add nothing."
_YES_NO = "Answer with one word, yes or no, and add nothing."


def _hidden(about: str, rule: str) -> str:
    return _HIDDEN.format(about=about) + rule


_WHEREABOUTS = "where people are"
_LAST_PLACE = "Only the last place told for a person counts."

WORDING = {
    "qa1": Wording(
        _hidden(_WHEREABOUTS, f"Say where the person of the question is. {_LAST_PLACE}"), (
            ("Sandra went to the office. John moved to the garden. Sandra journeyed to the "
             "hallway. Where is Sandra?", "hallway"),
            ("Daniel travelled to the kitchen. Mary went back to the bedroom. Where is Daniel?",
             "kitchen")), _PLACE),
    "qa2": Wording(
        _hidden("people, where they go and what they carry",
                "Say where the object of the question is. What a person carries goes where the "
                "person goes; what was put down stays where that happened."), (
            ("Mary journeyed to the office. Mary took the milk there. Mary went to the garden. "
             "Where is the milk?", "garden"),
            ("John moved to the bathroom. John got the apple there. John dropped the apple. "
             "John travelled to the hallway. Where is the apple?", "bathroom")), _PLACE),
    "qa3": Wording(
        _hidden("people, where they go and what they carry",
                "Say where the object of the question was just before it came to the place that "
                "the question names. What a person carries goes where the person goes."), (
            ("Sandra went to the kitchen. Sandra grabbed the milk. Sandra moved to the office. "
             "Sandra travelled to the hallway. Where was the milk before the hallway?", "office"),
            ("Daniel journeyed to the garden. Daniel took the apple. Daniel went to the bedroom. "
             "Daniel left the apple. Where was the apple before the bedroom?", "garden")),
        _PLACE),
    "qa4": Wording(
        _hidden("how rooms lie to each other", "Say which room fits the question."), (
            ("The office is north of the garden. The hallway is south of the garden. "
             "What is north of the garden?", "office"),
            ("The kitchen is east of the bathroom. The bathroom is east of the office. "
             "What is the bathroom east of?", "office")), _PLACE),
    "qa5": Wording(
        _hidden("people who take things and hand them to each other",
                "Say who or what the question asks for; of several such gifts the last one "
                "counts."), (
            ("Jeff got the apple there. Jeff passed the apple to Mary. Bill went to the office. "
             "Who did Jeff give the apple to?", "Mary"),
            ("Bill took the milk there. Bill handed the milk to Fred. "
             "What did Bill give to Fred?", "milk")),
        "Answer with one word, a name or an object, and add nothing."),
    "qa6": Wording(
        _hidden(_WHEREABOUTS, "Say whether the person is in the place of the question. "
                + _LAST_PLACE), (
            ("Daniel went to the office. Mary moved to the kitchen. Is Daniel in the office?",
             "yes"),
            ("Sandra travelled to the garden. Sandra journeyed to the bedroom. "
             "Is Sandra in the garden?", "no")), _YES_NO),
    "qa7": Wording(
        _hidden("people who take, drop and hand on things",
                "Count what the person of the question carries at the end."), (
            ("John took the football there. John grabbed the apple there. John dropped the "
             "football. How many objects is John carrying?", "one"),
            ("Mary got the milk there. Mary passed the milk to Daniel. "
             "How many objects is Mary carrying?", "none")),
        "Answer with one word, none, one, two or three, and add nothing."),
    "qa8": Wording(
        _hidden("people who take and drop things",
                "List what the person of the question carries at the end."), (
            ("Daniel picked up the apple there. Daniel got the football there. "
             "What is Daniel carrying?", "apple,football"),
            ("Sandra took the milk there. Sandra put down the milk. What is Sandra carrying?",
             "nothing")),
        "Answer with the objects, commas between them, or with the word nothing, and add no "
        "more."),
    "qa9": Wording(
        _hidden("where people are and are not",
                f"Say whether the person is in the place of the question. {_LAST_PLACE}"), (
            ("Sandra is in the kitchen. John is not in the garden. Is Sandra in the kitchen?",
             "yes"),
            ("Mary moved to the office. Mary is no longer in the office. Is Mary in the office?",
             "no")), _YES_NO),
    "qa10": Wording(
        _hidden("where people are, some of them only as one of two places",
                "Say whether the person is in the place of the question. Where a person may be "
                "there or elsewhere the answer is maybe."), (
            ("Julie is either in the park or the office. Fred went to the school. "
             "Is Julie in the park?", "maybe"),
            ("Bill is in the cinema. Is Bill in the bedroom?", "no"),
            ("Mary journeyed to the kitchen. Is Mary in the kitchen?", "yes")),
        "Answer with one word, yes, no or maybe, and add nothing."),
    "qa11": Wording(
        _hidden(_WHEREABOUTS, "He and she stand for the person named just before. Say where the "
                f"person of the question is. {_LAST_PLACE}"), (
            ("Mary moved to the office. Then she went to the garden. Where is Mary?", "garden"),
            ("John travelled to the kitchen. After that he journeyed to the hallway. Sandra "
             "went to the bathroom. Where is John?", "hallway")), _PLACE),
    "qa12": Wording(
        _hidden("where people go in pairs",
                f"Say where the person of the question is. {_LAST_PLACE}"), (
            ("Daniel and Mary went to the garden. John and Daniel moved to the office. "
             "Where is Daniel?", "office"),
            ("Sandra and John journeyed to the bathroom. Mary and Sandra travelled to the "
             "kitchen. Where is John?", "bathroom")), _PLACE),
    "qa13": Wording(
        _hidden("where people go in pairs", "They stands for the pair named just before. Say "
                f"where the person of the question is. {_LAST_PLACE}"), (
            ("Mary and John went to the office. Afterwards they moved to the bedroom. "
             "Where is John?", "bedroom"),
            ("Sandra and Daniel travelled to the kitchen. Then they journeyed to the garden. "
             "Mary and Sandra went to the hallway. Where is Daniel?", "garden")), _PLACE),
    "qa14": Wording(
        _hidden("where people were yesterday and this morning, afternoon and evening",
                "The facts are not told in the order of time. Say where the person was just "
                "before the place of the question."), (
            ("This morning Julie went to the park. Yesterday Julie moved to the school. "
             "Where was Julie before the park?", "school"),
            ("Fred travelled to the cinema this afternoon. This morning Fred journeyed to the "
             "office. Where was Fred before the cinema?", "office")), _PLACE),
    "qa15": Wording(
        _hidden("animals, what kind each is and which kind is afraid of which",
                "Say what the animal of the question is afraid of."), (
            ("Sheep are afraid of cats. Mice are afraid of wolves. Emily is a sheep. "
             "What is emily afraid of?", "cat"),
            ("Wolves are afraid of mice. Jessica is a wolf. What is jessica afraid of?",
             "mouse")),
        "Answer with the kind of animal as one of it is called, one word, and add nothing."),
    "qa16": Wording(
        _hidden("animals, their kinds and their colors", "Animals of one kind have one color. "
                "Say which color the animal of the question has."), (
            ("Greg is a swan. Lily is a swan. Lily is gray. What color is Greg?", "gray"),
            ("Brian is a frog. Julius is a frog. Brian is yellow. What color is Julius?",
             "yellow")),
        "Answer with the color, one word, and add nothing."),
    "qa17": Wording(
        _hidden("how shapes lie to each other", "Say whether the question is right."), (
            ("The triangle is above the pink rectangle. The blue square is to the left of the "
             "triangle. Is the pink rectangle below the blue square?", "yes"),
            ("The red sphere is to the left of the red square. The red square is above the "
             "triangle. Is the red sphere to the right of the triangle?", "no")), _YES_NO),
    "qa18": Wording(
        _hidden("what is bigger than what and what fits inside what",
                "Say whether the question is right."), (
            ("The chest is bigger than the suitcase. The suitcase is bigger than the chocolate. "
             "Does the chocolate fit in the chest?", "yes"),
            ("The box fits inside the container. The chocolate fits inside the box. "
             "Is the chocolate bigger than the container?", "no")), _YES_NO),
    "qa19": Wording(
        _hidden("how rooms lie to each other", "Say which two steps lead from the first place "
                "of the question to the second: n, s, e, w for north, south, east, west."), (
            ("The office is north of the garden. The kitchen is east of the office. "
             "How do you go from the garden to the kitchen?", "n,e"),
            ("The hallway is west of the bedroom. The bathroom is west of the hallway. "
             "How do you go from the bedroom to the bathroom?", "w,w")),
        "Answer with the two letters, a comma between them, and add nothing."),
    "qa20": Wording(
        _hidden("how people feel, where they go and what they get",
                "The tired go to the bedroom, the hungry to the kitchen, the thirsty to the "
                "kitchen, the bored to the garden. Say where someone will go, or why someone "
                "went there or got something."), (
            ("Sumit is hungry. Where will sumit go?", "kitchen"),
            ("Yann is bored. Yann travelled to the garden. Why did yann go to the garden?",
             "bored")),
        "Answer with one word, a place or a feeling, and add nothing."),
}
